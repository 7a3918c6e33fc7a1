// Series that are sent from this computer, or named to be fetched from a PACS.

import { attempt, button, counted, element, tell } from "./elements.js";
import { named, post, upload } from "./calls.js";

const sending = document.getElementById("upload");
const fetching = document.getElementById("fetch");
const drop = document.getElementById("drop");
const MB = 1e6;
const inputs = [sending.files, sending.folder];
let busy = false;

function occupy(value) {
  busy = value;
  for (const input of inputs) input.disabled = value;
}

export function openSending(offer) {
  const { sources } = offer;
  fetching.hidden = !sources.length;
  fetching.from.replaceChildren(...sources.map((text) => element("option", { text })));
}

// What became of it: each case as a link, then the files that were not taken.
function taken(place, body) {
  const cases = body.items.map((item) => element("p", {},
    element("a", { href: `#case/${item.id}`, text: item.series_description || item.series_uid }),
    ` is ${item.state}${item.reason ? `: ${item.reason}` : ""}, ${counted(item.instances, "instance")}.`));
  const problems = named(body.problems || []).map((text) => element("p", { text }));
  const told = tell(place, "");
  told.append(...cases, ...problems);
  document.dispatchEvent(new Event("changed"));
}

async function send(files) {
  if (!files.length || busy) return;
  occupy(true);
  const body = new FormData();
  for (const file of files) body.append("files", file, file.name);
  const bar = element("progress", { max: 1, value: 0, "aria-label": "sent" });
  const words = element("span", { text: ` ${counted(files.length, "file")}` });
  const stop = new AbortController();
  tell(sending, "").append(element("p", {}, bar, words, " "), button("Stop", { class: "quiet" }, () => stop.abort()));
  const told = (loaded, total) => {
    bar.value = loaded / total;
    words.textContent = loaded < total ? ` ${(loaded / MB).toFixed(1)} of ${(total / MB).toFixed(1)} MB` : " All is sent and being stored.";
  };
  try {
    await attempt(sending, async () => taken(sending, await upload("/cases", body, { told, stop: stop.signal })));
  } finally {
    occupy(false);
  }
}

// All files of a folder, and of the folders in it.
async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const files = [];
  for (;;) {
    // It gives some at a time, and none at the end.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return files;
    for (const one of some) files.push(...await filesOf(one));
  }
}

async function dropped(event) {
  event.preventDefault();
  drop.classList.remove("over");
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  try {
    await send((await Promise.all(entries.map(filesOf))).flat());
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    tell(sending, "A file that was dropped cannot be read.", true);
  }
}

drop.addEventListener("dragover", () => drop.classList.add("over"));
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", dropped);
for (const input of inputs) {
  input.addEventListener("change", async () => {
    await send([...input.files]);
    input.value = "";
  });
}

fetching.addEventListener("submit", async (event) => {
  event.preventDefault();
  const wanted = { series_uid: fetching.series_uid.value.trim(), from: fetching.from.value };
  if (fetching.study_uid.value.trim()) wanted.study_uid = fetching.study_uid.value.trim();
  tell(fetching, "The PACS is asked …");
  await attempt(fetching, async () => {
    taken(fetching, await post("/cases", wanted));
    fetching.reset();
  });
});
