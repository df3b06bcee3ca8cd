// Requests to the service: the token, problems, photos as object URLs.

const TOKEN = "objemb-token";
const KEPT = 400;
const pictures = new Map();
let askToken = async () => {};

export class Problem extends Error {
  constructor(document, status) {
    super(document.detail || document.title || `status ${status}`);
    this.status = status;
  }
}

export function onTokenNeeded(ask) {
  askToken = ask;
}

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ detail: "The service cannot be reached. Is it still running?" }, 0);
  }
  if (answer.status === 401) {
    await askToken(Boolean(token));
    return request(path, options);
  }
  if (answer.status === 503 && !options.again) {
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    await new Promise((done) => setTimeout(done, 1000 * Math.min(seconds, 5)));
    return request(path, { ...options, again: true });
  }
  if (!answer.ok) {
    const document = await answer.json().catch(() => ({}));
    throw new Problem(document, answer.status);
  }
  return answer;
}

export const getInfo = async () => (await request("/v1/info")).json();

export const getImage = async (id) => (await request(`/v1/images/${encodeURIComponent(id)}`)).json();

export async function listImages(start, limit, where) {
  const query = new URLSearchParams({ start, limit });
  if (where) query.set("where", where);
  return (await request(`/v1/images?${query}`)).json();
}

export async function search(query, files, signal) {
  const form = new FormData();
  form.set("query", JSON.stringify(query));
  for (const [name, file] of files) form.set(name, file, file.name || "photo");
  return (await request("/v1/search", { method: "POST", body: form, signal })).json();
}

export async function pictureOf(id, side) {
  // an <img> cannot carry a token, so photos are fetched; the last ones are kept
  const key = JSON.stringify([id, side]);
  if (!pictures.has(key)) {
    const made = request(`/v1/photos/${encodeURIComponent(id)}?side=${side}`)
      .then((answer) => answer.blob())
      .then((blob) => URL.createObjectURL(blob));
    made.catch(() => pictures.delete(key));
    pictures.set(key, made);
    if (pictures.size > KEPT) {
      const [oldest, url] = pictures.entries().next().value;
      pictures.delete(oldest);
      url.then(URL.revokeObjectURL, () => {});
    }
  }
  return pictures.get(key);
}
