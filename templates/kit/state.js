"use strict";

// The marks of one rater: the value of each field by its name, such as "ITEM.harm".
// They are saved in the browser after each change, under the ids of the kit and of the rater.

const KIT = document.body.dataset.kit;
const STORAGE_PREFIX = `bula-kit:${KIT}:`;
const RATER = /^[A-Z]{1,3}[0-9]{1,3}$/;

const session = { rater: "", values: {}, order: [], at: 0, isSaved: true };

// Some browsers refuse storage to pages that are opened from a disk.
function storageOrNull() {
  try {
    const storage = window.localStorage;
    storage.setItem("bula-kit:test", "1");
    storage.removeItem("bula-kit:test");
    return storage;
  } catch {
    return null;
  }
}

const storage = storageOrNull();

// Return whether the browser has stored the marks and the place.
function save() {
  let isStored = storage !== null;
  if (isStored) {
    const saved = { values: session.values, at: session.order[session.at] };
    try {
      storage.setItem(STORAGE_PREFIX + session.rater, JSON.stringify(saved));
    } catch {
      // The storage is full.
      isStored = false;
    }
  }
  document.getElementById("storage-alarm").hidden = isStored;
  return isStored;
}

function loadSaved(rater) {
  try {
    const { values, at } = JSON.parse(storage.getItem(STORAGE_PREFIX + rater));
    return { values: { ...values }, at };
  } catch {
    // No storage, no entry, or a damaged entry.
    return { values: {}, at: "" };
  }
}

function savedRaters() {
  if (storage === null) return [];
  return Object.keys(storage)
    .filter((key) => key.startsWith(STORAGE_PREFIX))
    .map((key) => key.slice(STORAGE_PREFIX.length))
    .filter((rater) => RATER.test(rater))
    .sort();
}

// Each rater has an order of their own, which is the same at each visit: a hash of the kit and the
// rater (FNV-1a) is the seed of a small generator (mulberry32).
function hashText(text) {
  let hash = 0x811c9dc5;
  for (const character of text) {
    hash = Math.imul(hash ^ character.codePointAt(0), 0x01000193);
  }
  return hash >>> 0;
}

function randomNumbers(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffle(list, random) {
  for (let last = list.length - 1; last > 0; last -= 1) {
    const other = Math.floor(random() * (last + 1));
    [list[last], list[other]] = [list[other], list[last]];
  }
  return list;
}

function orderOf(rater) {
  const random = randomNumbers(hashText(`${KIT}:${rater}`));
  const articles = [...document.querySelectorAll(".pair")];
  return ["1", "2", "3"].flatMap((part) => {
    const members = articles.filter((article) => article.dataset.part === part);
    return shuffle(members.map((article) => article.dataset.pair), random);
  });
}
