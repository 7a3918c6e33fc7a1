// Everything shown is put in as text, never as HTML: descriptions come from scanners.

import { Refusal } from "./calls.js";

export function element(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function button(text, attributes, act) {
  const made = element("button", { type: "button", text, ...attributes });
  made.addEventListener("click", act);
  return made;
}

export function field(text, name, attributes = {}) {
  return element("label", { text: `${text} ` }, element("input", { name, autocomplete: "off", ...attributes }));
}

// A row of a table that is a card on a telephone; the roles are said because CSS takes them away there.
export const row = (attributes, ...cells) => element("tr", { role: "row", ...attributes }, ...cells);
export const cell = (label, attributes, ...children) => element("td", { role: "cell", "data-label": label, ...attributes }, ...children);

export const ml = (value) => (typeof value === "number" ? value.toFixed(2) : "");
export const moment = (text, timeStyle = "medium") => (text ? new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle }) : "");
export const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
// A date as DICOM writes it: YYYYMMDD.
export const day = (text) => (text ? new Date(text.slice(0, 4), text.slice(4, 6) - 1, text.slice(6)).toLocaleDateString(undefined, { dateStyle: "medium" }) : "–");

// Put other children in; what had the focus keeps it, by its id, or the title has it where that is gone.
export function put(container, ...children) {
  const focused = container.contains(document.activeElement) ? document.activeElement.id : "";
  container.replaceChildren(...children);
  if (focused) (document.getElementById(focused) || container.querySelector("[tabindex='-1']"))?.focus();
}

// Ask before what cannot be undone; gives whether it is to be done.
export function ask(question, yes) {
  const dialog = document.getElementById("ask");
  dialog.querySelector("#question").textContent = question;
  dialog.querySelector("[value=yes]").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    for (const one of dialog.querySelectorAll("button")) one.onclick = () => dialog.close(one.value);
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
  });
}

// Do what is asked for: what came of it, if it gives that, or the refusal is said where it was asked.
export async function attempt(place, act) {
  try {
    const said = await act();
    if (said !== undefined) tell(place, said);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    tell(place, error.message, true);
  }
}

// Say what came of something that was asked for, below where it was asked.
export function tell(place, text, bad = false) {
  const told = place.querySelector(".told");
  told.classList.toggle("bad", bad);
  told.replaceChildren(...(text ? [element("p", { text })] : []));
  return told;
}
