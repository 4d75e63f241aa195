// SPDX-License-Identifier: Apache-2.0
/** The sentiment network's tokens, as models/words.py makes them. */

const TOKEN = new RegExp(
  [
    "(?<link>https?:\\S*|www\\.\\S+)",
    "(?<user>@[\\p{L}\\p{N}_]+)",
    "(?<face>[:;=][-o^']?[()\\[\\]dp\\/\\\\|*o$](?![\\p{L}\\p{N}_])|<\\/?3|\\^_\\^)",
    "(?<word>[a-z]+(?:['\\-][a-z]+)*)",
    "(?<number>\\p{Nd}[\\p{Nd}.,:]*)",
    "(?<mark>[!?]|\\.\\.\\.)",
  ].join("|"),
  "gu",
);
const CLASSES = { link: "<link>", user: "<user>", number: "<number>" };

/** Splits a sentence into words, faces and marks: [token, what stands there]. */
export function tokenize(sentence) {
  const tokens = [];
  for (const { 0: text, groups } of sentence.toLowerCase().replaceAll("’", "'").matchAll(TOKEN)) {
    const kind = Object.keys(groups).find((name) => groups[name] !== undefined);
    const token = kind === "word" ? text.replace(/(.)\1{2,}/g, "$1$1") : text;
    tokens.push([CLASSES[kind] ?? token, text]);
  }
  return tokens;
}
