import { attempt, button, cell, day, element, ml, moment, put, row, tell } from "./elements.js";
import { fetchFile, needsToken, post, read } from "./calls.js";
import { identityForm } from "./identity.js";
import { state, total } from "./list.js";
import { saidOf, verdictForm } from "./reader.js";

const place = document.getElementById("case");
// In the order in which they are offered.
const NAMES = {
  "report.pdf": "Report (PDF)", "segmentation": "DICOM SEG", "structured-report": "DICOM SR", "rtstruct": "RTSTRUCT",
  "segmentation.nii.gz": "NIfTI", "report.json": "Report (JSON)", "report.dcm": "Report (DICOM)", "preview.dcm": "Preview (DICOM)",
  "resampled.zip": "Axial MR (zip)",
};
const SENT = {
  pending: "waits", sent: "sent", committed: "sent, and the destination keeps it", dead: "given up", withheld: "withheld",
};
// A note goes to each destination by itself: rejection-note.NAME takes back what was before, rejection-note-rejected.NAME this.
const NOTE = /^rejection-note(-rejected)?\./;
let shown = null; // { id, text, facts, forms, about, judged, picture }

function fact(name, ...values) {
  return values.some(Boolean) ? [element("dt", { text: name }), element("dd", {}, ...values.filter(Boolean))] : [];
}

function facts(item) {
  const findings = item.findings || {};
  const model = item.model && `${item.model.name} ${item.model.version}, ${item.model.engine}, ${item.model.precision}`;
  const took = Object.entries(item.stages).map(([name, stage]) => `${name} ${stage.seconds.toFixed(2)} s`).join(", ");
  return element("dl", {},
    ...fact("Patient ID", item.patient_id),
    ...fact("Study date", day(item.study_date)),
    ...fact("Accession number", item.accession_number),
    ...fact("Received", moment(item.received_at)),
    ...fact("Instances", `${item.instances}`),
    ...fact("Revision", item.revision ? `${item.revision}${item.primary ? ", the study's chosen result" : ""}` : ""),
    ...fact("Lesions", `${total(item) ?? ""}`),
    ...fact("Lesions, ml", ml(findings.lesion_volume_ml)),
    ...fact("Tumour-like, ml", ml(findings.tumour_like_volume_ml)),
    ...fact("Total, tumour not confirmed, ml", ml(findings.total_hyperintensity_ml)),
    ...fact("Brain, ml", ml(findings.brain_volume_ml)),
    ...fact("Notes", item.quality.join(", ")),
    ...fact("Release", model),
    ...fact("Stages", took),
    ...fact("Study", element("code", { text: item.study_uid })),
    ...fact("Series", element("code", { text: item.series_uid })));
}

function link(name, address) {
  const opened = name === "report.pdf" || name === "report.json";
  const made = element("a", { id: `output-${name}`, href: address, text: NAMES[name], target: opened ? "_blank" : null, rel: "noopener" });
  made.addEventListener("click", async (event) => {
    if (!needsToken()) return;
    event.preventDefault();
    await doing(made, async () => { element("a", { href: await fetchFile(address), download: name.includes(".") ? name : `${name}.dcm` }).click(); });
  });
  return element("li", {}, made);
}

// The picture of a revision is fetched once: each time is an entry in the audit trail.
function picture(item) {
  const address = item.outputs["preview.png"];
  const about = `${item.id} ${item.revision}`;
  if (!address) return [];
  if (shown.picture?.about !== about) {
    const image = element("img", { alt: "Montage of axial planes with the outlines of what was found" });
    const failed = () => image.replaceWith(element("p", { class: "soft", text: "The picture did not come." }));
    image.addEventListener("error", failed);
    if (needsToken()) fetchFile(address).then((file) => { image.src = file; }, failed);
    else image.src = `${address}?revision=${item.revision}`;
    shown.picture = { about, node: element("figure", {}, image) };
  }
  return [shown.picture.node];
}

function results(item) {
  const links = Object.keys(NAMES).filter((name) => item.outputs[name]).map((name) => link(name, item.outputs[name]));
  return links.length ? [element("h3", { text: "Results" }), element("ul", { class: "results" }, ...links)] : [];
}

function nameOf(output) {
  const note = NOTE.exec(output);
  return note ? `Rejection note for ${note[1] ? "this revision" : "earlier results"}` : NAMES[output] || output;
}

function delivery(one) {
  const next = one.state === "pending" && one.next_attempt_at ? `, next try ${moment(one.next_attempt_at)}` : "";
  return row({ class: one.state },
    cell("Destination", { text: one.destination }),
    cell("Result", { text: nameOf(one.output) }),
    cell("State", {}, element("b", { text: `${SENT[one.state] || one.state}${next}` })),
    cell("Tries", { class: "number", text: one.attempts }),
    cell("Trouble", { class: "long", text: one.last_error }));
}

function deliveries(item, may) {
  if (!item.deliveries.length) return [];
  const heads = ["Destination", "Result", "State", "Tries", "Trouble"];
  const head = (text) => element("th", { role: "columnheader", scope: "col", text, class: text === "Tries" ? "number" : null });
  const made = [
    element("h3", { id: "deliveries", text: "Deliveries" }),
    element("table", { class: "cards", role: "table", "aria-labelledby": "deliveries" },
      element("thead", { role: "rowgroup" }, row({}, ...heads.map(head))),
      element("tbody", { role: "rowgroup" }, ...item.deliveries.map(delivery))),
  ];
  if (may.includes("submit") && item.deliveries.some((one) => one.state === "dead")) {
    made.push(element("p", {}, button("Send again", { id: "resend" }, (event) => doing(event.target, async () => {
      await post(`/cases/${item.id}/resend`);
      return "What was given up is due again.";
    }))));
  }
  return made;
}

function again(item, may) {
  if (!may.includes("submit") || !["failed", "held"].includes(item.state)) return [];
  const what = item.state === "held" ? "Look at it again" : "Run it again";
  return [element("p", {}, button(what, { id: "retry" }, (event) => doing(event.target, async () => {
    const now = await post(`/cases/${item.id}/retry`);
    return `Asked for again; it is ${now.state} now.`;
  })))];
}

// Do what a button or a link is for; what came of it or went wrong is said on top of the case.
async function doing(control, act) {
  if (control.ariaBusy === "true") return;
  control.ariaBusy = "true"; // one that is disabled would lose the focus
  tell(place, "");
  try {
    await attempt(place, async () => {
      const said = await act();
      document.dispatchEvent(new Event("changed"));
      return said;
    });
  } finally {
    control.ariaBusy = null;
  }
}

const isRejected = ({ verdict, revision }) => verdict?.verdict === "reject" && verdict.revision === revision;

function head(item) {
  return [
    element("p", {}, state(item), item.reason ? ` ${item.reason}` : ""),
    ...saidOf(item).map((text) => element("p", { class: `verdict ${isRejected(item) ? "reject" : ""}`, text })),
  ];
}

function open(id) {
  shown = { id, text: "", about: "", judged: null, picture: null, facts: element("div"), forms: element("div") };
  place.replaceChildren(
    element("p", {}, element("a", { href: "#", text: "← All cases" })),
    element("div", { class: "told", role: "status" }), shown.facts, shown.forms);
}

function gone(words) {
  put(shown.facts, element("h2", { tabindex: "-1", text: "No such case" }), element("p", { text: words }));
  put(shown.forms);
  shown.text = shown.about = "";
}

export async function refreshCase(id, may) {
  if (shown?.id !== id) open(id);
  const current = shown;
  let item;
  try {
    item = await read(`/cases/${id}`);
  } catch (error) {
    if (error.status !== 404) throw error;
    if (current === shown) gone(error.message);
    return;
  }
  const text = JSON.stringify([item, may]);
  if (current !== shown || text === shown.text) return;
  shown.text = text;
  put(shown.facts,
    element("h2", { id: "title", tabindex: "-1", text: item.series_description || "(no description)" }, element("span", { class: "soft", text: ` study of ${day(item.study_date)}` })),
    ...head(item), ...again(item, may),
    element("div", { class: "sides" }, element("div", {}, facts(item), ...results(item)), ...picture(item)),
    ...deliveries(item, may));
  showForms(item, may);
}

// A form that somebody types in stays as it is while what it is about does.
function showForms(item, may) {
  const rejected = isRejected(item);
  const about = JSON.stringify([item.state, item.revision, rejected, may]);
  if (about === shown.about) return;
  shown.about = about;
  const made = [];
  if (may.includes("submit") && item.state === "done") made.push(judging(item, rejected));
  if (may.includes("admin") && item.instances) made.push(identityForm(item));
  if (!may.includes("submit")) made.push(element("p", { class: "soft", text: "To judge, run again or send again, use a token with the scope submit." }));
  put(shown.forms, ...made);
}

// Nobody judges a revision by mistake that came while he looked at another.
function judging(item, rejected) {
  const before = (shown.judged ??= item.revision);
  if (before === item.revision) return verdictForm(item, rejected);
  const look = button(`Judge revision ${item.revision}`, { id: "judge" }, () => {
    shown.judged = item.revision;
    box.replaceWith(verdictForm(item, rejected));
  });
  const box = element("div", { class: "box", role: "status" },
    element("p", { text: `Revision ${item.revision} has taken the place of revision ${before}, which you were looking at.` }), look);
  return box;
}

export function closeCase() {
  shown = null;
  place.replaceChildren();
}
