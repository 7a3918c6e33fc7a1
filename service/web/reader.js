// What readers say of a result, and what they said.

import { ask, attempt, element, field, ml, moment, tell } from "./elements.js";
import { kept, post, upload } from "./calls.js";

const VERDICTS = { accept: "Result accepted", reject: "Result rejected", correct: "Mask replaced" };
const MOST_LETTERS = { reader: 60, comment: 2000 };

export function saidOf(item) {
  const said = [];
  const by = (one) => `by ${one.reader}, ${moment(one.at)}`;
  const { verdict, correction } = item;
  const corrected = item.findings?.corrected;
  if (verdict) {
    const about = verdict.made || verdict.revision;
    const of = about === item.revision ? "" : ` (revision ${about}, not the one shown)`;
    said.push(`${VERDICTS[verdict.verdict]} ${by(verdict)}${of}${verdict.comment ? `: ${verdict.comment}` : "."}`);
  }
  if (corrected) {
    said.push(`The results are of the mask of ${corrected.reader}, ${moment(corrected.at)}; the model alone found ${ml(corrected.model_lesion_volume_ml)} ml of lesions, ${ml(corrected.model_tumour_like_volume_ml)} ml tumour-like.`);
  }
  if (correction?.state === "pending") said.push(`A corrected mask ${by(correction)}, waits for a worker to look at it; the results stay until then.`);
  if (correction?.state === "refused") said.push(`A corrected mask ${by(correction)}, was refused: ${correction.reason}`);
  return said;
}

function words(form, item) {
  return { reader: form.reader.value.trim(), comment: form.comment.value.trim(), revision: item.revision };
}

async function correct(form, item) {
  const body = new FormData();
  for (const [name, value] of Object.entries(words(form, item))) body.append(name, value);
  body.append("file", form.mask.files[0]);
  await upload(`/cases/${item.id}/verdict`, body);
  form.mask.value = "";
  form.comment.value = "";
  return "The corrected mask is kept. A worker looks at it next, and what becomes of it is told above.";
}

async function judge(form, item, verdict) {
  const question = `Reject revision ${item.revision}? It stays readable and is marked, it is not delivered any more, and it cannot be accepted afterwards. Destinations that take rejection notes are told to withdraw it. A rejection is undone by sending a mask: this one as it is, or a corrected one, makes a new revision in your name.`;
  if (verdict === "reject" && !(await ask(question, "Reject"))) return "";
  await post(`/cases/${item.id}/verdict`, { verdict, ...words(form, item) });
  form.comment.value = "";
  return verdict === "accept" ? "Accepted." : "Rejected.";
}

// What each button cannot do without is asked for in the browser's own words beside the field.
function lacks(form, verdict) {
  const reason = verdict === "reject" && !form.comment.value.trim() ? "Say why it is rejected." : "";
  const mask = verdict === "correct" && !form.mask.files.length ? "Choose the corrected mask." : "";
  form.comment.setCustomValidity(reason);
  form.mask.setCustomValidity(mask);
  return !form.reportValidity();
}

async function send(form, item, verdict) {
  if (lacks(form, verdict)) return;
  kept.reader = form.reader.value;
  tell(form, "");
  await attempt(form, async () => {
    const said = await (verdict === "correct" ? correct(form, item) : judge(form, item, verdict));
    document.dispatchEvent(new Event("changed"));
    return said;
  });
}

export function verdictForm(item, rejected) {
  const choice = (value, text, kind) => element("button", { type: "button", value, text, class: kind });
  const form = element("form", { id: "verdict", class: "box" },
    element("h3", { text: `Your verdict on revision ${item.revision}` }),
    field("Your name", "reader", { required: "", maxlength: MOST_LETTERS.reader, pattern: "[^\\\\=]+", value: kept.reader }),
    field("Comment; why, where you reject", "comment", { maxlength: MOST_LETTERS.comment }),
    rejected
      ? element("p", { class: "soft", text: "This revision was rejected and cannot be accepted. A mask makes a new one in your name: a corrected one or, where it was rejected by mistake, its own (DICOM SEG or NIfTI, under Results) as it is." })
      : element("p", { class: "line" }, choice("accept", "Accept"), choice("reject", "Reject…", "quiet")),
    element("p", { class: "line" },
      field("Corrected mask: DICOM SEG, or NIfTI on the grid of the series", "mask", { type: "file", accept: ".dcm,.nii,.gz,application/dicom" }),
      choice("correct", "Replace by this mask", "quiet")),
    element("div", { class: "told", role: "status" }));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { for (const one of [form.comment, form.mask]) one.setCustomValidity(""); });
  for (const one of form.querySelectorAll("button")) {
    one.addEventListener("click", async () => {
      one.disabled = true;
      await send(form, item, one.value);
      one.disabled = false;
    });
  }
  return form;
}
