// Keys work only while a field has the focus, so they never disturb a screen reader elsewhere.

const STOPS = "summary, [data-field], textarea, [data-step='next']";

function stopsOf(article) {
  return [...article.querySelectorAll(STOPS)];
}

function focusStop(stop) {
  const target = stop.matches("[data-field]")
    ? (stop.querySelector("input:checked") ?? stop.querySelector("input"))
    : stop;
  target.focus();
}

function currentStop(article) {
  return document.activeElement.closest(STOPS) ?? article.querySelector("h2");
}

function moveFocus(article, step) {
  const stops = stopsOf(article);
  const place = stops.indexOf(currentStop(article)) + step;
  if (place >= 0 && place < stops.length) focusStop(stops[place]);
}

// Observations are optional, so a choice skips them.
function focusNextField(article, field) {
  const stops = stopsOf(article);
  const rest = stops.slice(stops.indexOf(field) + 1);
  const next = rest.find((stop) => !stop.matches("textarea, summary"));
  if (next !== undefined) focusStop(next);
}

function chooseOption(article, field, number) {
  const input = field.querySelectorAll("input")[number - 1];
  if (input === undefined) return;
  input.click();
  focusNextField(article, field);
}

function pressInNote(event, article) {
  if (event.key !== "Escape") return;
  event.preventDefault();
  focusNextField(article, event.target);
}

function pressInField(event, article, field) {
  if (/^[1-9]$/.test(event.key)) {
    event.preventDefault();
    chooseOption(article, field, Number(event.key));
  } else if (event.key === "Enter") {
    event.preventDefault();
    goNext(article);
  }
}

function pressKey(event) {
  const article = document.querySelector(".pair:not([hidden])");
  if (article === null || event.ctrlKey || event.altKey || event.metaKey) return;
  if (!article.contains(event.target) && event.target !== document.body) return;
  if (event.target.matches("textarea")) {
    pressInNote(event, article);
    return;
  }
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    moveFocus(article, event.key === "ArrowDown" ? 1 : -1);
    return;
  }
  const field = event.target.closest("[data-field]");
  if (field !== null) pressInField(event, article, field);
}
