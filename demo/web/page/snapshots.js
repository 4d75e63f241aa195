// SPDX-License-Identifier: Apache-2.0
/** Saved states, which stay in this browser and are the same in all of its tabs. */

import { State } from "stateport";

const KEY = "stateport.states";
const MOST = 8;
const LONGEST_TEXT = 4000;

/** All saved states, the newest first: {id, text, state}, where `state` is in base64. */
export function all() {
  try {
    const saved = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(saved) ? saved : [];
  } catch {
    return [];
  }
}

function write(saved) {
  localStorage.setItem(KEY, JSON.stringify(saved.slice(0, MOST)));
}

/** Adds a state and the text that led to it. */
export function add(state, text) {
  const bytes = Array.from(state.serialize(), (byte) => String.fromCharCode(byte)).join("");
  const id = `${Date.now()}-${Math.random().toString(36).slice(2, 8)}`;
  write([{ id, text: text.slice(-LONGEST_TEXT), state: btoa(bytes) }, ...all()]);
}

export function remove(id) {
  write(all().filter((saved) => saved.id !== id));
}

/** The bytes of a saved state: the file that Python's State.load reads. */
export function bytesOf({ state }) {
  return Uint8Array.from(atob(state), (character) => character.charCodeAt(0));
}

export function stateOf(saved) {
  return State.deserialize(bytesOf(saved));
}

/** Calls back when another tab has changed the saved states. */
export function whenChanged(callback) {
  window.addEventListener("storage", (event) => {
    if (event.key === KEY) callback();
  });
}
