// Calls of the service; whatever goes wrong is a Refusal, in words.

export class Refusal extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

const SILENT = "The service does not answer.";
const PATIENCE_MS = 20000;
const FILE_KEPT_MS = 60000;
const MOST_FILES_NAMED = 5;

// Whoever has another token is somebody else.
export const kept = {
  get token() { return sessionStorage.getItem("token") || ""; },
  set token(text) {
    sessionStorage.setItem("token", text);
    sessionStorage.removeItem("reader");
  },
  get reader() { return sessionStorage.getItem("reader") || ""; },
  set reader(text) { sessionStorage.setItem("reader", text); },
};

const authorization = () => (kept.token ? { Authorization: `Bearer ${kept.token}` } : {});

// The words of a problem detail (RFC 9457), with the files that it names.
function words(status, text) {
  try {
    const problem = JSON.parse(text);
    const said = [problem.detail || problem.title, ...named(problem.problems || [])].filter(Boolean);
    if (said.length) return said.join(" ");
  } catch { /* something between the page and the service answered */ }
  return `The service answered with status ${status}.`;
}

export function named(problems) {
  const some = problems.slice(0, MOST_FILES_NAMED).map((one) => `File ${one.file}${one.name ? `, ${one.name}` : ""}: ${one.detail}.`);
  if (problems.length > some.length) some.push(`And ${problems.length - some.length} more.`);
  return some;
}

export async function call(address, { headers = {}, ...options } = {}) {
  let answer;
  try {
    answer = await fetch(address, { ...options, headers: { ...headers, ...authorization() } });
  } catch {
    throw new Refusal(0, SILENT);
  }
  if (!answer.ok) throw new Refusal(answer.status, words(answer.status, await answer.text()));
  return answer;
}

export async function read(address) {
  try {
    return await (await call(address, { signal: AbortSignal.timeout(PATIENCE_MS) })).json();
  } catch (error) {
    throw error instanceof Refusal ? error : new Refusal(0, SILENT); // it broke off
  }
}

export async function post(address, body) {
  const sent = body === undefined ? {} : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await call(address, { method: "POST", ...sent })).json();
}

// fetch() does not tell how much of a body is sent.
export function upload(address, form, { told = () => {}, stop } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address);
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => told(event.loaded, event.total);
    request.onload = () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(new Refusal(request.status, words(request.status, request.responseText)));
    };
    request.onerror = () => reject(new Refusal(0, SILENT));
    request.onabort = () => reject(new Refusal(0, "Stopped. What had not all come is not kept."));
    stop?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

// A plain link or picture carries no token.
export const needsToken = () => Boolean(kept.token);

export async function fetchFile(address) {
  const file = URL.createObjectURL(await (await call(address)).blob());
  setTimeout(() => URL.revokeObjectURL(file), FILE_KEPT_MS);
  return file;
}
