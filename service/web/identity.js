import { ask, attempt, cell, element, field, moment, put, row, tell } from "./elements.js";
import { kept, post, read } from "./calls.js";

const FIELDS = ["patient_id", "name", "birth_date", "sex", "issuer", "by", "reason"];

async function correct(form, item) {
  const wanted = Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value.trim()]).filter(([, value]) => value));
  const question = `Is this series of the patient with the ID ${wanted.patient_id}? Every result of it is made again under new UIDs in that name and sent again; what was sent before is withdrawn where a destination takes rejection notes. The images that were received, and other series, stay as they are.`;
  if (!(await ask(question, "Correct the identity"))) return;
  await post(`/cases/${item.id}/identity`, wanted);
  form.reset();
  document.dispatchEvent(new Event("changed"));
}

const CALLED = { patient_id: "Patient ID", issuer: "Issuer", name: "Name", birth_date: "Birth date", sex: "Sex" };

function changes({ before, after }) {
  return Object.keys(CALLED).filter((name) => before[name] !== after[name])
    .map((name) => element("div", { text: `${CALLED[name]}: ${before[name] || "(empty)"} → ${after[name] || "(empty)"}` }));
}

function corrected(items) {
  if (!items.length) return [];
  return [element("table", { class: "cards", role: "table" },
    element("caption", { text: "Corrected before" }),
    element("thead", { role: "rowgroup" }, row({}, ...["When", "Who", "Why", "What"].map((text) => element("th", { role: "columnheader", scope: "col", text })))),
    element("tbody", { role: "rowgroup" }, ...items.map((one) => row({},
      cell("When", { text: moment(one.at) }), cell("Who", { text: one.by }), cell("Why", { class: "long", text: one.reason }),
      cell("What", { class: "long" }, element("div", {}, ...changes(one)))))))];
}

export function identityForm(item) {
  const form = element("form", { id: "identity" },
    element("p", { class: "soft", text: "Where the series came under another patient's name. What is left empty stays as it is." }),
    field("Patient ID", "patient_id", { required: "", maxlength: 64, value: item.patient_id }),
    field("Issuer of the ID", "issuer", { maxlength: 64 }),
    field("Name, as Family^Given^Middle^Prefix^Suffix", "name", { maxlength: 324 }),
    field("Birth date, YYYYMMDD", "birth_date", { pattern: "[0-9]{8}", maxlength: 8, inputmode: "numeric" }),
    element("label", { text: "Sex " }, element("select", { name: "sex" },
      element("option", { value: "", text: "as it is" }), ...["F", "M", "O"].map((text) => element("option", { text })))),
    field("Who says so", "by", { required: "", maxlength: 200, value: kept.reader }),
    field("Why; it goes into the audit trail, so without the patient's name", "reason", { required: "", maxlength: 200 }),
    element("button", { text: "Correct…" }),
    element("div", { class: "told", role: "status" }));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    tell(form, "");
    await attempt(form, () => correct(form, item));
  });
  const before = element("div", { id: "corrected" });
  const box = element("details", { class: "box" }, element("summary", { text: "Correct the patient's identity" }), before, form);
  // Read only when somebody looks: each time is an entry in the audit trail.
  box.addEventListener("toggle", async () => {
    if (!box.open) return;
    await attempt(form, async () => put(before, ...corrected((await read(`/cases/${item.id}/identity`)).items)));
  });
  return box;
}
