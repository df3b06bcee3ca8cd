// A query: its views, the address that keeps it, and its forms for a command line and for curl.

let count = 0;
// photos that were dropped: an address names them by number while this page is open
const files = new Map();

export function keep(file) {
  count += 1;
  files.set(String(count), file);
  return String(count);
}

export const fileOf = (view) => files.get(view.file);

// views: {role: "photo" | "like" | "unlike", image or file, name, boxes}
export function toRequest({ views, where, k, combine, most }) {
  const parts = new Map();
  const request = { k };
  if (where) request.where = where;
  if (most > 0) request.at_most_false = most;
  const like = [];
  const unlike = [];
  views.forEach((view, number) => {
    const source = {};
    if (view.image !== undefined) source.image = view.image;
    else {
      const part = view.role === "photo" ? "photo" : `view${number}`;
      parts.set(part, fileOf(view));
      if (part !== "photo") source.upload = part;
    }
    if (view.boxes.length) source.boxes = view.boxes;
    if (view.role === "photo") Object.assign(request, source);
    else (view.role === "like" ? like : unlike).push(source);
  });
  if (like.length) request.like = like;
  if (unlike.length) request.unlike = unlike;
  if (like.length || unlike.length) request.combine = combine;
  const images = views.filter((view) => view.image !== undefined && view.role === "photo").map((view) => view.image);
  if (images.length) request.exclude = images;
  return { request, parts };
}

export function toAddress({ views, where, k, combine, most }) {
  const rounded = (box) => box.map((value) => Math.round(value * 100) / 100);
  const short = views.map(({ role, image, file, name, boxes }) => ({ role, image, file, name, boxes: boxes.map(rounded) }));
  return `#${new URLSearchParams({ q: JSON.stringify({ views: short, where, k, combine, most }) })}`;
}

export function fromAddress(hash) {
  try {
    const text = new URLSearchParams(hash.slice(1)).get("q");
    const query = text && JSON.parse(text);
    if (!query || !Array.isArray(query.views) || !query.views.every(isView)) return null;
    return {
      views: query.views, where: String(query.where || ""), combine: String(query.combine || "best"),
      k: Number.isInteger(query.k) ? query.k : 60, most: query.most > 0 ? Number(query.most) : 0,
    };
  } catch {
    return null;
  }
}

function isView(view) {
  const named = typeof view.image === "string" || typeof view.file === "string";
  const isBox = (box) => Array.isArray(box) && box.length === 4 && box.every(Number.isFinite);
  return ["photo", "like", "unlike"].includes(view.role) && named && Array.isArray(view.boxes) && view.boxes.every(isBox);
}

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const edges = (box) => box.map((value) => String(Math.round(value * 100) / 100)).join(",");

export function asCommand(query, index) {
  const words = ["objemb", "search", index];
  const first = query.views.find((view) => view.role === "photo");
  if (first) {
    words.push(first.name);
    first.boxes.forEach((box) => words.push("--box", edges(box)));
    if (first.image !== undefined) words.push("--exclude-self");
  }
  for (const view of query.views) {
    if (view === first) continue;
    const places = view.boxes.length ? view.boxes.map((box) => `${view.name}:${edges(box)}`) : [view.name];
    places.forEach((place) => words.push(`--${view.role}`, place));
  }
  if (query.views.length > 1) words.push("--combine", query.combine);
  words.push("-k", String(query.k));
  if (query.most > 0) words.push("--at-most-false", String(query.most));
  if (query.where) words.push("--where", query.where);
  return words.map(quoted).join(" ");
}

export function asCurl(query, origin, token) {
  const { request, parts } = toRequest(query);
  const words = ["curl"];
  if (token) words.push("-H", "Authorization: Bearer $OBJEMB_TOKEN");
  const named = new Map(query.views.map((view) => [fileOf(view), view.name]));
  for (const [part, file] of parts) words.push("-F", `${part}=@${named.get(file)}`);
  words.push("--form-string", `query=${JSON.stringify(request)}`, `${origin}/v1/search`);
  return words.map((word) => (word.includes("$OBJEMB_TOKEN") ? `"${word}"` : quoted(word))).join(" ");
}
