// The file of a rater: one header row, then one row per judgement. An answer that the rater began
// and did not finish has "finished": false, and null for each missing mark.

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

// Return null for an answer without any mark or note.
function answerRow(item) {
  const valueOf = (name) => session.values[name] ?? null;
  const names = [...sentenceNames(item), ...SCORES.map((score) => `${item.id}.${score}`)];
  const note = (valueOf(`${item.id}.note`) ?? "").trim();
  if (note === "" && names.every((name) => valueOf(name) === null)) return null;
  const style = valueOf(`${item.id}.style`);
  const row = {
    type: "answer",
    item: item.id,
    sentences: sentenceNames(item).map(valueOf),
    relevance: valueOf(`${item.id}.relevance`),
    harm: valueOf(`${item.id}.harm`),
    style: style === null ? null : Number(style),
    note,
  };
  return isFinished(names) ? row : { ...row, finished: false };
}

function pairRow(pair) {
  const prefer = session.values[`${pair}.prefer`];
  return prefer === undefined ? null : { type: "pair", pair, prefer };
}

function judgementRows() {
  const rows = session.order.flatMap((pair) => [...itemsOf(pair).map(answerRow), pairRow(pair)]);
  return rows.filter((row) => row !== null);
}

function exportText() {
  const header = { form: 1, kit: KIT, rater: session.rater, language: "pt-BR" };
  return [header, ...judgementRows()].map((row) => `${JSON.stringify(row)}\n`).join("");
}

// Return the number of rows in words, and how many of them are unfinished.
function countInWords(rows) {
  const total = rows.length === 1 ? "1 linha de marcas" : `${rows.length} linhas de marcas`;
  const open = rows.filter((row) => row.finished === false).length;
  if (open === 0) return total;
  return `${total} (${open === 1 ? "1 não está pronta" : `${open} não estão prontas`})`;
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
  for (const score of SCORES) values.push([`${row.item}.${score}`, row[score]]);
  const marks = row.finished === false ? values.filter(([, value]) => value !== null) : values;
  return marks.map(([name, value]) => [name, String(value)]);
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
  return { rater: rows[0].rater, values: Object.fromEntries(values), rows: rows.slice(1) };
}
