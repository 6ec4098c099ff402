// The three screens: start, one pair at a time, end.

const byId = (id) => document.getElementById(id);
// Long numbers and addresses of e-mail. The import searches much more.
const PERSONAL = /@|\d[\d .()-]{5,}\d/;

function showScreen(name) {
  byId("start").hidden = name !== "start";
  byId("pairs").hidden = name !== "pairs";
  byId("end").hidden = name !== "end";
  byId("bar").hidden = name === "start";
  byId("open-export").hidden = name === "end";
  byId("asked").hidden = name === "end";
}

function finishedCount() {
  return session.order.filter(isFinishedPair).length;
}

function showProgress() {
  const finished = finishedCount();
  const total = session.order.length;
  byId("progress").value = finished;
  const ready = finished === 1 ? "1 pronto" : `${finished} prontos`;
  const place = byId("pairs").hidden ? `${total} pares` : `Par ${session.at + 1} de ${total}`;
  const text = `${place} · ${ready} · ${session.rater}`;
  // A screen reader speaks each change.
  if (byId("where").textContent !== text) byId("where").textContent = text;
}

// Start

function showSaved() {
  const raters = savedRaters();
  byId("saved").hidden = raters.length === 0;
  byId("saved-list").replaceChildren(
    ...raters.map((rater) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `Continuar como ${rater}`;
      button.addEventListener("click", () => begin(rater));
      const entry = document.createElement("li");
      entry.append(button);
      return entry;
    }),
  );
}

function showStart() {
  session.rater = "";
  showScreen("start");
  showSaved();
  byId("storage-alarm").hidden = storage !== null;
}

function begin(rater) {
  const saved = loadSaved(rater);
  session.rater = rater;
  session.isSaved = true;
  session.values = saved.values;
  session.order = orderOf(rater);
  session.at = Math.max(session.order.indexOf(saved.at), 0);
  fillForm();
  showPair(session.at);
}

function submitStart(event) {
  event.preventDefault();
  const rater = byId("rater").value.trim().toUpperCase();
  const isValid = RATER.test(rater);
  byId("rater-alarm").hidden = isValid;
  if (isValid) {
    begin(rater);
    return;
  }
  byId("rater-alarm").textContent =
    "O código tem de uma a três letras e depois de um a três algarismos, como R1.";
  byId("rater").focus();
}

// Pairs

function fillForm() {
  for (const input of document.querySelectorAll(".pair input, .pair textarea")) {
    const value = session.values[input.name];
    if (input.type === "radio") input.checked = input.value === value;
    else showNote(input, value ?? "");
  }
}

function showNote(note, text) {
  note.value = text;
  warnOfPersonalData(note);
}

function showPair(index) {
  session.at = index;
  for (const article of document.querySelectorAll(".pair")) article.hidden = true;
  const article = articleOf(session.order[index]);
  const heading = article.querySelector("h2");
  heading.textContent = `Pergunta ${index + 1} de ${session.order.length}`;
  byId("asked").textContent = article.querySelector(".question").textContent;
  article.querySelector("[data-missing]").textContent = "";
  article.querySelector("[data-step='back']").disabled = index === 0;
  article.hidden = false;
  showScreen("pairs");
  showProgress();
  save();
  window.scrollTo(0, 0);
  heading.focus({ preventScroll: true });
}

function goForward() {
  if (session.at + 1 < session.order.length) showPair(session.at + 1);
  else showEnd();
}

function goNext(article) {
  const fields = [...article.querySelectorAll("[data-field]")];
  const missing = fields.filter((field) => !(field.dataset.field in session.values));
  for (const field of fields) field.classList.toggle("is-missing", missing.includes(field));
  if (missing.length === 0) {
    goForward();
    return;
  }
  const count = missing.length === 1 ? "Falta 1 campo" : `Faltam ${missing.length} campos`;
  article.querySelector("[data-missing]").textContent = `${count} neste par.`;
  focusStop(missing[0]);
}

function takeStep(event) {
  const step = event.target.dataset.step;
  if (step === "back") showPair(session.at - 1);
  if (step === "skip") goForward();
  if (step === "next") goNext(event.target.closest(".pair"));
}

function keepMark(event) {
  const input = event.target;
  if (input.value === "") delete session.values[input.name];
  else session.values[input.name] = input.value;
  const field = input.closest("[data-field]");
  if (field !== null) field.classList.remove("is-missing");
  if (input.matches("textarea")) warnOfPersonalData(input);
  session.isSaved = save();
  showProgress();
}

function warnOfPersonalData(note) {
  const alarm = note.closest(".note").querySelector("[data-note-alarm]");
  alarm.hidden = !PERSONAL.test(note.value);
}

// End

function openPairButton(index) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `Pergunta ${index + 1}`;
  button.addEventListener("click", () => showPair(index));
  return button;
}

function showEnd() {
  const open = session.order.flatMap((pair, index) => (isFinishedPair(pair) ? [] : [index]));
  const heading = byId("end").querySelector("h1");
  heading.textContent = open.length === 0 ? "Pronto. Obrigado!" : "Salvar e continuar";
  byId("end-text").textContent =
    open.length === 0
      ? "Todos os pares estão prontos. Salve o arquivo e envie-o."
      : `Ainda faltam ${open.length} de ${session.order.length} pares:`;
  byId("open-pairs").replaceChildren(...open.map(openPairButton));
  byId("export-text").value = exportText();
  byId("export-status").textContent = "";
  showScreen("end");
  showProgress();
  window.scrollTo(0, 0);
  heading.focus({ preventScroll: true });
}

function exportFile() {
  const text = exportText();
  const link = document.createElement("a");
  const address = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
  link.href = address;
  link.download = fileName();
  link.click();
  // The browser reads the address after this function.
  setTimeout(() => URL.revokeObjectURL(address), 60000);
  session.isSaved = true;
  const rows = countInWords(judgementRows());
  byId("export-status").textContent = `Salvo em ${fileName()}, com ${rows}.`;
}

async function importFile(event) {
  const input = event.target;
  const status = byId(input.id === "import-start" ? "import-status" : "import-end-status");
  const [file] = input.files;
  if (file === undefined) return;
  try {
    takeOver(parseFile(await file.text()));
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    status.textContent = error.message;
  }
  // The same file may be chosen again.
  input.value = "";
}

function takeOver(found) {
  if (session.rater !== "" && session.rater !== found.rater) {
    throw new FileError(`O arquivo é de ${found.rater}, e você é ${session.rater}.`);
  }
  if (session.rater === "") begin(found.rater);
  Object.assign(session.values, found.values);
  fillForm();
  session.isSaved = save();
  showEnd();
  byId("import-end-status").textContent = `Carregado: ${countInWords(found.rows)}.`;
}

function leave() {
  if (session.isSaved) {
    showStart();
    return;
  }
  byId("export-status").textContent = "Salve o arquivo antes: este navegador não guarda as marcas.";
  byId("export").focus();
}

// Another tab with the same rater would overwrite the marks of this one.
function noteOtherTab(event) {
  if (session.rater === "" || event.key !== STORAGE_PREFIX + session.rater) return;
  byId("tab-alarm").hidden = false;
}

function warnBeforeLeaving(event) {
  if (session.rater !== "" && !session.isSaved) event.preventDefault();
}

function listen() {
  byId("start-form").addEventListener("submit", submitStart);
  byId("pairs").addEventListener("input", keepMark);
  byId("pairs").addEventListener("click", takeStep);
  byId("open-export").addEventListener("click", showEnd);
  byId("export").addEventListener("click", exportFile);
  byId("resume").addEventListener("click", () => showPair(session.at));
  byId("leave").addEventListener("click", leave);
  for (const input of document.querySelectorAll(".import")) {
    input.addEventListener("change", importFile);
  }
  document.addEventListener("keydown", pressKey);
  window.addEventListener("storage", noteOtherTab);
  window.addEventListener("beforeunload", warnBeforeLeaving);
}

listen();
showStart();
