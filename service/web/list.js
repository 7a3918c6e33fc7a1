import { cell, counted, day, element, ml, moment, put, row } from "./elements.js";
import { read } from "./calls.js";

const form = document.getElementById("filters");
const table = document.getElementById("cases");
const more = document.getElementById("more");
const empty = document.getElementById("empty");
const PAGE = 50;
let shown = new Map(); // id → { text, row, at }
let next = null;
let olderShown = false;

export function total(item) {
  const { findings } = item;
  return findings && item.state === "done" && findings.lesion_count === 0 ? "none found" : findings?.lesion_count;
}

export const state = (item) => element("span", { class: `state ${item.state}`, text: item.state });

// What somebody should know of a case before opening it.
function marks(item) {
  const { verdict, correction, deliveries, findings } = item;
  const dead = deliveries.filter((one) => one.state === "dead").length;
  const about = verdict && (verdict.made || verdict.revision) === item.revision ? verdict.verdict : "";
  return [
    { accept: "result accepted", reject: "result rejected" }[about],
    findings?.corrected ? "mask of a reader" : "",
    { pending: "correction waits", refused: "correction refused" }[correction?.state],
    dead ? `${counted(dead, "result")} given up` : "",
  ].filter(Boolean);
}

function rowOf(item) {
  const findings = item.findings || {};
  const number = { class: "number" };
  const series = element("a", { id: `case-${item.id}`, href: `#case/${item.id}`, text: item.series_description || "(no description)" });
  const about = `${counted(item.instances, "instance")}${item.revision > 1 ? `, revision ${item.revision}` : ""}${item.primary ? ", primary" : ""}`;
  const found = cell("State", {}, state(item), ...marks(item).map((text) => element("span", { class: "mark", text })));
  if (item.reason) found.append(element("div", { class: "soft", text: item.reason }));
  return row({},
    cell("Received", { class: "moment", text: moment(item.received_at, "short") }),
    cell("Patient ID", { class: "long patient", text: item.patient_id }),
    cell("Study", { class: "moment", text: day(item.study_date) }, ...(item.accession_number ? [element("div", { class: "soft", text: item.accession_number })] : [])),
    cell("Series", { class: "long" }, series, element("div", { class: "soft", text: about })),
    found,
    cell("Lesions", { ...number, text: total(item) }),
    cell("Lesions, ml", { ...number, text: ml(findings.lesion_volume_ml) }),
    cell("Tumour-like, ml", { ...number, text: ml(findings.tumour_like_volume_ml) }),
    cell("Total, ml", { ...number, text: ml(findings.total_hyperintensity_ml) }));
}

function show(items) {
  for (const item of items) {
    const text = JSON.stringify(item);
    if (shown.get(item.id)?.text !== text) shown.set(item.id, { text, row: rowOf(item), at: item.received_at });
  }
  const rows = [...shown.values()].sort((a, b) => (a.at < b.at ? 1 : -1)).map((one) => one.row);
  if (rows.length !== table.children.length || rows.some((one, index) => table.children[index] !== one)) put(table, ...rows);
  empty.hidden = shown.size > 0;
  empty.textContent = form.state.value || form.patient_id.value.trim() || form.dead.checked
    ? "No case is like that."
    : "No cases yet. What the service is sent appears here by itself.";
}

async function page(cursor) {
  const query = new URLSearchParams({ limit: PAGE });
  if (form.state.value) query.set("state", form.state.value);
  if (form.patient_id.value.trim()) query.set("patient_id", form.patient_id.value.trim());
  if (form.dead.checked) query.set("delivery_state", "dead");
  if (cursor) query.set("cursor", cursor);
  const body = await read(`/cases?${query}`);
  if (cursor || !olderShown) next = body.next;
  more.hidden = !next;
  return body;
}

export async function refreshList() {
  const asked = shown;
  const body = await page(null);
  if (asked !== shown) return; // other cases are asked for meanwhile
  // What is not on the newest page any more, and not older than it, is not like that any more.
  const last = body.next ? body.items[body.items.length - 1].received_at : "";
  const ids = new Set(body.items.map((item) => item.id));
  for (const [id, one] of shown) if (!ids.has(id) && one.at >= last) shown.delete(id);
  show(body.items);
}

export function forgetList() {
  shown = new Map();
  next = null;
  olderShown = false;
  more.hidden = true;
  empty.hidden = true;
  table.replaceChildren();
}

export function openList() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    forgetList();
    document.dispatchEvent(new Event("changed"));
  });
  more.addEventListener("click", async () => {
    const asked = shown;
    const body = await page(next).catch(() => null); // the next look says why
    if (!body || asked !== shown) return;
    olderShown = true;
    show(body.items);
  });
}
