"use strict";
// Switches the language, and filters the answers. The texts are in the page; no data is fetched.

const PAGE_SIZE = 12;
const LANGUAGE_KEY = "bula.report.language";
const filters = document.getElementById("filters");
const cards = [...document.querySelectorAll("#cards .card")];
const texts = new Map(cards.map((card) => [card, plain(card.textContent)]));
let limit = PAGE_SIZE;

// Returns lower-case text without accents, so that "nausea" finds "náusea".
function plain(text) {
  return text.normalize("NFD").replace(/\p{Diacritic}/gu, "").toLowerCase();
}

// A browser may forbid storage to pages that were opened from a disk.
function rememberLanguage(language) {
  try {
    localStorage.setItem(LANGUAGE_KEY, language);
  } catch {
    return;
  }
}

function rememberedLanguage() {
  try {
    return localStorage.getItem(LANGUAGE_KEY);
  } catch {
    return null;
  }
}

function firstLanguage() {
  const remembered = rememberedLanguage();
  if (remembered === "en" || remembered === "pt-BR") {
    return remembered;
  }
  return navigator.language.toLowerCase().startsWith("pt") ? "pt-BR" : "en";
}

function showLanguage(language) {
  document.documentElement.lang = language;
  const key = language === "en" ? "en" : "pt";
  for (const element of document.querySelectorAll("[data-en]")) {
    element.textContent = element.dataset[key];
  }
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
  }
}

function value(id) {
  return document.getElementById(id).value;
}

function isChecked(id) {
  const box = document.getElementById(id);
  return box !== null && box.checked;
}

function matches(card, words) {
  const data = card.dataset;
  if (value("set") && data.set !== value("set")) {
    return false;
  }
  if (value("specialty") && data.specialty !== value("specialty")) {
    return false;
  }
  if (isChecked("degenerate") && data.degenerate !== "1") {
    return false;
  }
  if (isChecked("dangerous") && data.dangerous !== "1") {
    return false;
  }
  return words.every((word) => texts.get(card).includes(word));
}

function ordered() {
  if (value("order") !== "changed") {
    return cards;
  }
  return [...cards].sort((a, b) => b.dataset.changed - a.dataset.changed);
}

function applyFilters() {
  const words = plain(value("search")).split(/\s+/).filter(Boolean);
  const found = ordered().filter((card) => matches(card, words));
  const visible = new Set(found.slice(0, limit));
  for (const card of ordered()) {
    card.hidden = !visible.has(card);
    card.parentElement.append(card);
  }
  document.getElementById("shown").textContent = visible.size;
  document.getElementById("matching").textContent = found.length;
  document.getElementById("more").hidden = visible.size === found.length;
  document.getElementById("answers").classList.toggle("unmarked", !isChecked("marks"));
}

function restart() {
  limit = PAGE_SIZE;
  applyFilters();
}

function showMore() {
  limit += PAGE_SIZE;
  applyFilters();
}

for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    rememberLanguage(button.dataset.language);
    showLanguage(button.dataset.language);
  });
}
filters.addEventListener("input", restart);
filters.addEventListener("submit", (event) => event.preventDefault());
// The fields have their first values only after the event.
filters.addEventListener("reset", () => setTimeout(restart));
document.getElementById("more").addEventListener("click", showMore);
showLanguage(firstLanguage());
applyFilters();
