// SPDX-License-Identifier: Apache-2.0
/** JSON from outside: bounded, and without a key that is named twice. */

import { shown } from "./words.ts";

/** The most characters of a JSON text. */
export const MOST_JSON: number = 16 << 20;
const DEEPEST = 64;
const TOKEN = /"(?:[^"\\]|\\.)*"(\s*:)?|[[\]{}]/gs;

/** The value of a JSON text; an `Error` says why it is none. */
export function parseJson(text: string): unknown {
  if (text.length > MOST_JSON) throw new Error(`it has more than ${MOST_JSON} characters`);
  checkTokens(text);
  return JSON.parse(text);
}

/** Refuses deep nesting, and a key that an object has twice, of which readers take either. */
function checkTokens(text: string): void {
  const objects: Set<string>[] = [];
  for (const [token, colon] of text.matchAll(TOKEN)) {
    if (token === "{" || token === "[") objects.push(new Set());
    else if (token === "}" || token === "]") objects.pop();
    if (objects.length > DEEPEST) {
      throw new Error(`it is nested more than ${DEEPEST} levels deep`);
    }
    if (!colon) continue;

    const key = JSON.parse(token.slice(0, -colon.length)) as string;
    const keys = objects.at(-1);
    if (keys?.has(key)) throw new Error(`it names the key ${shown(key)} twice`);
    keys?.add(key);
  }
}

/** Whether a value of JSON is an object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
