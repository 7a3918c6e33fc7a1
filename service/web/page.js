import { kept, read, Refusal } from "./calls.js";
import { forgetList, openList, refreshList } from "./list.js";
import { closeCase, refreshCase } from "./case.js";
import { openSending } from "./send.js";

const REFRESH_MS = 5000;
const news = document.getElementById("news");
const tokenForm = document.getElementById("token");
const who = document.getElementById("who");
let offer = null; // what the service lets this token do; null until it has said so
let answered = null;
let turn = Promise.resolve();
let waiting = 0;

const may = (scope) => Boolean(offer && offer.scopes.includes(scope));
const chosen = () => /^#case\/([A-Za-z0-9._-]+)$/.exec(location.hash)?.[1];

function say(text) {
  news.hidden = !text;
  if (news.textContent !== text) news.textContent = text;
}

function lock() {
  offer = null;
  closeCase();
  forgetList();
}

async function unlock() {
  offer = await read("/page.json");
  tokenForm.hidden = !offer.locked || may("read");
  who.hidden = !offer.locked || !offer.token;
  who.firstElementChild.textContent = offer.token ? `Token ${offer.token}: may ${offer.scopes.join(", ")}.` : "";
  say(kept.token && offer.locked && !offer.token ? "The service does not know this token." : "");
  openSending(offer);
}

function show() {
  const id = chosen();
  document.getElementById("case").hidden = !may("read") || !id;
  document.getElementById("list").hidden = !may("read") || Boolean(id);
  document.getElementById("send").hidden = !may("submit") || Boolean(id);
  document.title = `Leukoscope – ${id ? "case" : "cases"}`;
}

// Nothing is asked for again and again without a token that may read: each refusal is an entry in the audit trail.
async function look() {
  try {
    if (!offer) await unlock();
    if (may("read")) {
      await (chosen() ? refreshCase(chosen(), offer.scopes) : refreshList());
      say("");
    }
    answered = new Date();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.status === 401 || error.status === 403) {
      lock();
      await unlock().catch((silent) => say(silent.message));
    } else if (error.status === 0) {
      say(`${error.message} ${answered ? `What is shown is of ${answered.toLocaleTimeString()}. ` : ""}Asked again every ${REFRESH_MS / 1000} seconds.`);
    } else say(error.message);
  } finally {
    waiting -= 1;
    show();
  }
}

function refresh() {
  waiting += 1;
  turn = turn.then(look);
  return turn;
}

tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  kept.token = tokenForm.token.value;
  tokenForm.reset();
  lock();
  refresh();
});

who.querySelector("button").addEventListener("click", () => {
  kept.token = "";
  lock();
  refresh();
});

window.addEventListener("hashchange", async () => {
  closeCase();
  show();
  await refresh();
  document.querySelector(chosen() ? "#case h2" : "#list select")?.focus();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
document.addEventListener("changed", refresh);
// A drop that misses its place would open the file instead of the page.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());

openList();
refresh();
setInterval(() => { if (!document.hidden && !waiting && (!offer || may("read"))) refresh(); }, REFRESH_MS);
