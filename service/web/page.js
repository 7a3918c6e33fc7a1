"use strict";

// Everything shown is put in as text, never as HTML: descriptions come from scanners.
const form = document.getElementById("filters");
const table = document.getElementById("cases");
const news = document.getElementById("news");
const more = document.getElementById("more");
const NAMES = {
  "segmentation": "DICOM SEG", "segmentation.nii.gz": "NIfTI", "report.pdf": "Report (PDF)", "report.json": "Report (JSON)",
  "structured-report": "DICOM SR", "rtstruct": "RTSTRUCT", "resampled.zip": "Axial MR (zip)",
  "report.dcm": "Report (DICOM)", "preview.dcm": "Preview (DICOM)",
};
const REFRESH_MS = 5000;
let next = null;
let shown = new Map();
let olderShown = false;

form.token.value = sessionStorage.getItem("token") || "";

function headers() {
  return form.token.value ? { Authorization: `Bearer ${form.token.value}` } : {};
}

function element(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function ml(value) {
  return typeof value === "number" ? value.toFixed(2) : "";
}

async function fetchFile(url) {
  const answer = await fetch(url, { headers: headers() });
  if (!answer.ok) throw new Error(`${answer.status}`);
  return URL.createObjectURL(await answer.blob());
}

function link(name, url) {
  const made = element("a", { href: url, text: NAMES[name] || name, target: name.startsWith("report.") && !name.endsWith(".dcm") ? "_blank" : null, rel: "noopener" });
  if (form.token.value) {
    // A plain link carries no token.
    made.addEventListener("click", async (event) => {
      event.preventDefault();
      const file = await fetchFile(url);
      element("a", { href: file, download: name }).click();
    });
  }
  return made;
}

function preview(item) {
  const url = item.outputs["preview.png"];
  if (!url) return "";
  const image = element("img", { alt: "Montage with the outlines of what was found", loading: "lazy" });
  if (form.token.value) fetchFile(url).then((file) => { image.src = file; }, () => {});
  else image.src = `${url}?revision=${item.revision}`;
  return element("a", { href: url, target: "_blank", rel: "noopener" }, image);
}

function resend(item) {
  const button = element("button", { type: "button", text: "Send again" });
  button.addEventListener("click", async () => {
    button.disabled = true;
    const answer = await fetch(`/cases/${item.id}/resend`, { method: "POST", headers: headers() });
    if (answer.ok) await refresh();
    else news.textContent = (await answer.json()).detail;
    button.disabled = false;
  });
  return button;
}

const VERDICTS = { accept: "Accepted", reject: "Rejected, withdrawn", correct: "Corrected" };

function verdicts(item) {
  const said = [];
  const by = (one) => `by ${one.reader}, ${new Date(one.at).toLocaleString()}`;
  const { verdict, correction } = item;
  const corrected = item.findings && item.findings.corrected;
  if (verdict) {
    const about = verdict.made || verdict.revision;
    const of = about === item.revision ? "" : ` (revision ${about}, not the one shown)`;
    said.push(`${VERDICTS[verdict.verdict]} ${by(verdict)}${of}${verdict.comment ? `: ${verdict.comment}` : ""}`);
  }
  if (corrected) {
    said.push(`Mask corrected by ${corrected.reader}, ${new Date(corrected.at).toLocaleString()}; the model alone found ${ml(corrected.model_lesion_volume_ml)} ml of lesions, ${ml(corrected.model_tumour_like_volume_ml)} ml tumour-like`);
  }
  if (correction) said.push(`Correction ${by(correction)} ${correction.state}${correction.reason ? `: ${correction.reason}` : ""}`);
  return said;
}

function row(item) {
  const findings = item.findings || {};
  const count = item.state === "done" && findings.lesion_count === 0 ? "none found" : findings.lesion_count;
  const total = findings.total_hyperintensity_ml;
  const state = element("td", {}, element("span", { class: `state ${item.state}`, text: item.state }));
  if (item.reason) state.append(element("div", { class: "reason", text: item.reason }));
  if (item.quality.length) state.append(element("div", { class: "quality", text: `Note: ${item.quality.join(", ")}` }));
  for (const text of verdicts(item)) state.append(element("div", { class: "verdict", text }));
  for (const delivery of item.deliveries) {
    const trouble = delivery.last_error ? ` – ${delivery.last_error}` : "";
    state.append(element("div", { class: `deliveries ${delivery.state}`, text: `${delivery.destination}: ${delivery.output} ${delivery.state}${trouble}` }));
  }
  if (item.deliveries.some((delivery) => delivery.state === "dead")) state.append(resend(item));
  const links = Object.entries(item.outputs).filter(([name]) => name !== "preview.png").map(([name, url]) => link(name, url));
  const series = element("td", { text: item.series_description || "(no description)", title: item.series_uid });
  series.append(element("div", { class: "reason", text: `${item.instances} instances${item.revision > 1 ? `, revision ${item.revision}` : ""}${item.primary ? ", primary" : ""}` }));
  return element("tr", {},
    element("td", { class: "moment", text: new Date(item.received_at).toLocaleString() }),
    element("td", { text: item.patient_id }), series, state,
    element("td", { class: "number", text: count }),
    element("td", { class: "number", text: ml(findings.lesion_volume_ml) }),
    element("td", { class: "number", text: ml(findings.tumour_like_volume_ml) }),
    element("td", { class: "number", text: ml(total) }),
    element("td", { class: "results" }, ...links),
    element("td", { class: "preview" }, preview(item)));
}

function show(items) {
  for (const item of items) {
    const text = JSON.stringify(item);
    const known = shown.get(item.id);
    if (known && known.text === text) continue;
    const made = row(item);
    if (known) known.row.replaceWith(made);
    shown.set(item.id, { text, row: made, at: item.received_at });
  }
  const ordered = [...shown.values()].sort((a, b) => (a.at < b.at ? 1 : -1));
  ordered.forEach((entry, index) => { if (table.children[index] !== entry.row) table.insertBefore(entry.row, table.children[index] || null); });
  document.getElementById("empty").hidden = shown.size > 0;
}

async function load(cursor) {
  const query = new URLSearchParams({ limit: "50" });
  if (form.state.value) query.set("state", form.state.value);
  if (form.patient_id.value.trim()) query.set("patient_id", form.patient_id.value.trim());
  if (form.dead.checked) query.set("delivery_state", "dead");
  if (cursor) query.set("cursor", cursor);
  try {
    const answer = await fetch(`/cases?${query}`, { headers: headers() });
    const body = await answer.json();
    if (answer.status === 401 || answer.status === 403) {
      document.getElementById("token-label").hidden = false;
      throw new Error("This service needs an API token with the scope read.");
    }
    if (!answer.ok) throw new Error(body.detail || `${answer.status}`);
    news.textContent = "";
    if (cursor || !olderShown) next = body.next;
    more.hidden = !next;
    return body.items;
  } catch (error) {
    news.textContent = error.message;
    return null;
  }
}

async function refresh() {
  const items = await load(null);
  if (items) show(items);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", form.token.value);
  table.replaceChildren();
  shown = new Map();
  olderShown = false;
  refresh();
});

more.addEventListener("click", async () => {
  const items = await load(next);
  olderShown = true;
  if (items) show(items);
});

refresh();
setInterval(() => { if (!document.hidden) refresh(); }, REFRESH_MS);
