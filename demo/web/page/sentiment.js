// SPDX-License-Identifier: Apache-2.0
/** The part of the page that reads a sentence, word by word. */

import { Tensor } from "stateport";

import { colourOf, css } from "./heat.js";
import { tokenize } from "./words.js";

const EXAMPLES = [
  "The food was not good.",
  "Not bad at all!",
  "I thought I would hate it, but I love it.",
  "What a waste of time :(",
];
const find = (id) => document.getElementById(id);

/** What the network thinks after each token, from 0 (negative) to 1 (positive). */
export async function opinions(model, vocabulary, sentence) {
  const stream = model.stream();
  const read = [];
  for (const [token, text] of [["<start>", ""], ...tokenize(sentence)]) {
    const known = vocabulary.get(token);
    const index = BigInt(known ?? vocabulary.get("<unknown>"));
    const { data } = await stream.push(new Tensor("int64", BigInt64Array.of(index), [1, 1]));
    read.push({ text, known: known !== undefined, positive: 1 / (1 + Math.exp(data[0] - data[1])) });
  }
  stream.dispose();
  return read;
}

/** Starts the part; a function that draws it again, for a new theme. */
export function startReading(model, vocabulary) {
  const sentence = find("sentence");
  let read = [];
  let asked = 0;

  function show() {
    const words = read.slice(1).map(({ text, known, positive }) => {
      const word = document.createElement("span");
      word.textContent = text;
      const colour = colourOf((2 * positive - 1) * 0.75);
      word.style.background = css(colour);
      word.style.color = luminance(colour) > 0.18 ? "#171512" : "#fffdf9";
      if (!known) word.className = "unknown";
      return word;
    });
    find("words").replaceChildren(...words);
    const { positive } = read.at(-1);
    find("needle").style.left = `${100 * positive}%`;
    find("verdict").textContent = words.length ? inWords(positive) : "Type a sentence.";
  }

  async function readAgain() {
    const number = ++asked;
    const fresh = await opinions(model, vocabulary, sentence.value);
    if (number !== asked) return;
    read = fresh;
    show();
  }

  const buttons = EXAMPLES.map((text) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    button.addEventListener("click", () => {
      sentence.value = text;
      void readAgain();
    });
    return button;
  });
  document.querySelector(".examples").replaceChildren(...buttons);
  sentence.addEventListener("input", () => void readAgain());
  void readAgain();
  return () => read.length && show();
}

function inWords(positive) {
  const share = Math.round(100 * Math.max(positive, 1 - positive));
  return `${positive < 0.5 ? "Negative" : "Positive"}, ${share} % sure`;
}

/** How light a colour looks, from 0 to 1. */
function luminance(colour) {
  const linear = colour.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}
