// SPDX-License-Identifier: Apache-2.0
/** The text generator: a stream that is fed with the character that it wrote last. */

import { Tensor } from "stateport";

const LONGEST_PAST = 400;
const MOST_LIKELY = 6;

/**
 * A text that grows. The stream has read all of it but the last character, which it reads in the
 * next step.
 */
export class Generator {
  /** The text so far, and how much of it the reader gave. */
  text = "";
  begun = 0;
  /** The last characters with the state h after each. */
  past = [];
  /** The characters that were likely at the last step, the one taken among them: [it, chance]. */
  likely = [];
  #model;
  #stream;
  #alphabet;

  constructor(model, alphabet) {
    this.#model = model;
    this.#alphabet = alphabet;
    this.#stream = model.stream();
  }

  /** Forgets everything and reads a beginning. Characters that it does not know are left out. */
  async begin(prompt) {
    this.text = [...prompt].filter((character) => this.#alphabet.includes(character)).join("") || "\n";
    this.begun = this.text.length;
    this.past = [];
    this.likely = [];
    this.#stream.reset();
    for (const character of this.text.slice(0, -1)) await this.#read(character);
  }

  /** Writes one character: the likeliest, or one drawn by its probability. */
  async step(daring) {
    const scores = await this.#read(this.text.at(-1));
    const chances = softmax(scores, daring || 1);
    const order = [...chances.keys()].sort((a, b) => chances[b] - chances[a]);
    const taken = daring ? drawn(chances) : order[0];
    const shown = order.slice(0, MOST_LIKELY);
    if (!shown.includes(taken)) shown.splice(-1, 1, taken);
    this.likely = shown.map((index) => [this.#alphabet[index], chances[index]]);
    this.text += this.#alphabet[taken];
  }

  /** The state: undefined before the first step. */
  get state() {
    return this.past.length ? this.#stream.state : undefined;
  }

  /** A part of the state as numbers: "h0" or "c0". */
  values(name) {
    return this.state?.get(name).data ?? new Float32Array(this.#size);
  }

  /** Goes on from a state. `text` is what was written until then, if that is known. */
  restore(state, text) {
    this.#stream.restore(state);
    this.text = text || "\n";
    this.begun = text ? 0 : 1;
    this.likely = [];
    this.past = [[this.text.at(-2) ?? " ", state.get("h0").data]];
  }

  /** How many steps a second a stream makes, without anything else. */
  async rate(milliseconds) {
    const stream = this.#model.stream();
    if (this.state) stream.restore(this.state);
    const token = this.#token(" ");
    for (let warm = 0; warm < 100; warm++) await stream.push(token);
    const start = performance.now();
    let [steps, passed] = [0, 0];
    while (passed < milliseconds) {
      for (let some = 0; some < 50; some++) await stream.push(token);
      steps += 50;
      passed = performance.now() - start;
    }
    stream.dispose();
    return (1000 * steps) / passed;
  }

  get #size() {
    return this.#model.states[0].shape.at(-1);
  }

  #token(character) {
    const index = BigInt(this.#alphabet.indexOf(character));
    return new Tensor("int64", BigInt64Array.of(index), [1, 1]);
  }

  /** Feeds one character; the scores of what may follow it. */
  async #read(character) {
    const scores = await this.#stream.push(this.#token(character));
    this.past.push([character, this.#stream.state.get("h0").data]);
    if (this.past.length > LONGEST_PAST) this.past.splice(0, this.past.length - LONGEST_PAST);
    return scores.data;
  }
}

/** The chances of scores. The lower `daring`, the surer is the likeliest. */
function softmax(scores, daring) {
  const most = scores.reduce((a, b) => Math.max(a, b));
  const weights = Array.from(scores, (score) => Math.exp((score - most) / daring));
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / sum);
}

function drawn(chances) {
  let rest = Math.random();
  for (const [index, chance] of chances.entries()) {
    rest -= chance;
    if (rest < 0) return index;
  }
  return chances.indexOf(Math.max(...chances));
}
