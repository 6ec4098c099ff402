// The file of a rater: one header row, then one row per finished judgement.

const SCORES = ["relevance", "harm", "style"];

function articleOf(pair) {
  return document.getElementById(`pair-${pair}`);
}

function itemsOf(pair) {
  return [...articleOf(pair).querySelectorAll("[data-item]")].map((section) => ({
    id: section.dataset.item,
    sentences: Number(section.dataset.sentences),
  }));
}

function fieldsOf(root) {
  return [...root.querySelectorAll("[data-field]")].map((field) => field.dataset.field);
}

function isFinished(names) {
  return names.every((name) => name in session.values);
}

function isFinishedPair(pair) {
  return isFinished(fieldsOf(articleOf(pair)));
}

function sentenceNames(item) {
  return Array.from({ length: item.sentences }, (_, number) => `${item.id}.s${number}`);
}

function answerRow(item) {
  const names = [...sentenceNames(item), ...SCORES.map((score) => `${item.id}.${score}`)];
  if (!isFinished(names)) return null;
  return {
    type: "answer",
    item: item.id,
    sentences: sentenceNames(item).map((name) => session.values[name]),
    relevance: session.values[`${item.id}.relevance`],
    harm: session.values[`${item.id}.harm`],
    style: Number(session.values[`${item.id}.style`]),
    note: (session.values[`${item.id}.note`] ?? "").trim(),
  };
}

function pairRow(pair) {
  const prefer = session.values[`${pair}.prefer`];
  return prefer === undefined ? null : { type: "pair", pair, prefer };
}

function exportText() {
  const rows = [{ form: 1, kit: KIT, rater: session.rater, language: "pt-BR" }];
  for (const pair of session.order) {
    rows.push(...itemsOf(pair).map(answerRow), pairRow(pair));
  }
  return rows
    .filter((row) => row !== null)
    .map((row) => `${JSON.stringify(row)}\n`)
    .join("");
}

function fileName() {
  return `avaliacao-${KIT}-${session.rater}.jsonl`;
}

// A message in Portuguese, which the page shows.
class FileError extends Error {}

function parseLine(line, number) {
  try {
    const row = JSON.parse(line);
    if (row !== null && typeof row === "object") return row;
  } catch {
    // The error below names the line.
  }
  throw new FileError(`A linha ${number} do arquivo está danificada. Nada foi carregado.`);
}

function checkHeader(header) {
  if (header.form !== 1 || typeof header.kit !== "string" || !RATER.test(header.rater)) {
    throw new FileError("Este arquivo não foi salvo por esta página. Nada foi carregado.");
  }
  if (header.kit !== KIT) {
    throw new FileError(
      `Este arquivo é de outra avaliação (${header.kit.slice(0, 40)}). Nada foi carregado.`,
    );
  }
}

// Return the values of one row. A value counts only if the page offers it.
function rowValues(row) {
  if (row.type === "pair") return [[`${row.pair}.prefer`, row.prefer]];
  const sentences = Array.isArray(row.sentences) ? row.sentences : [];
  const values = sentences.map((value, number) => [`${row.item}.s${number}`, value]);
  for (const score of SCORES) values.push([`${row.item}.${score}`, String(row[score])]);
  return values;
}

function isOffered(name, value) {
  const inputs = [...document.getElementsByName(name)];
  return inputs.some((input) => input.type === "radio" && input.value === value);
}

function isComplete(row) {
  if (row.type === "pair") return true;
  const section = document.querySelector(`[data-item="${CSS.escape(String(row.item))}"]`);
  const count = Array.isArray(row.sentences) ? row.sentences.length : -1;
  return section !== null && Number(section.dataset.sentences) === count;
}

function checkedValues(row, number) {
  const values = rowValues(row);
  const isKnown = values.every(([name, value]) => isOffered(name, value));
  if (!isKnown || !isComplete(row)) {
    throw new FileError(`A linha ${number} não combina com esta página. Nada foi carregado.`);
  }
  if (row.type === "answer" && typeof row.note === "string" && row.note !== "") {
    values.push([`${row.item}.note`, row.note]);
  }
  return values;
}

// Return the rater and the values of a file. An error leaves everything as it was.
function parseFile(text) {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  if (lines.length === 0) throw new FileError("O arquivo está vazio.");
  const rows = lines.map((line, index) => parseLine(line, index + 1));
  checkHeader(rows[0]);
  const values = rows.slice(1).flatMap((row, index) => checkedValues(row, index + 2));
  return { rater: rows[0].rater, values: Object.fromEntries(values), count: rows.length - 1 };
}
