// The page: what to search for on one side, what was found on the other.

import { getImage, getInfo, onTokenNeeded, pictureOf, search, setToken } from "./api.js";
import { BoxEditor } from "./boxes.js";
import { byId, make, say, show } from "./dom.js";
import { FilterBox } from "./filter.js";
import { Hits, scoreText } from "./hits.js";
import { Library } from "./library.js";
import { asCommand, asCurl, fileOf, fromAddress, keep, toAddress, toRequest } from "./query.js";

const SIDE = 1280;
const NAMES = { photo: "Photo", like: "Further view", unlike: "Counter-example" };

let info = null;
const EMPTY = { views: [], where: "", k: 60, combine: "best", most: 0 };

let query = { ...EMPTY };
let running = null;
let renders = 0;

const filter = new FilterBox(() => run());
const hits = new Hits((image, box) => start({ role: "photo", image, name: image, boxes: [box] }, true));
const library = new Library((image) => start({ role: "photo", image, name: image, boxes: [] }, false), complain);

function complain(error) {
  if (error.name === "AbortError") return;
  if (error.status === 422 && error.message.startsWith("where")) {
    filter.complain(error.message);
    show(byId("settings"), true);
    byId("filter").focus();
  } else {
    say(byId("query-message"), error.message, "notice error");
  }
}

// ---- the token

onTokenNeeded((wrong) => new Promise((done) => {
  const form = byId("token-form");
  show(form, true);
  say(byId("token-message"), wrong ? "This is not the token of this service." : "");
  byId("token").focus();
  form.onsubmit = (event) => {
    event.preventDefault();
    setToken(byId("token").value.trim());
    show(form, false);
    done();
  };
}));

// ---- views

async function editorOf(view) {
  const label = `${NAMES[view.role]} ${view.name}`;
  const changed = (whole) => {
    if (whole && view.role === "photo") run();
  };
  if (view.image !== undefined) {
    const [stored, url] = await Promise.all([getImage(view.image), pictureOf(view.image, SIDE)]);
    const [height, width] = stored.size;
    const offered = stored.regions.filter(({ box }) => (box[2] - box[0]) * (box[3] - box[1]) < 0.98 * width * height);
    return new BoxEditor({ url, size: stored.size, boxes: view.boxes, offered, label, onChange: changed });
  }
  const file = fileOf(view);
  if (!file) throw new Error(`${view.name} was dropped before this page was opened again: choose it once more.`);
  const url = URL.createObjectURL(file);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    throw new Error(`${view.name} cannot be shown as a photo by this browser.`);
  }
  const size = [image.naturalHeight, image.naturalWidth];
  return new BoxEditor({ url, size, boxes: view.boxes, offered: [], label, onChange: changed });
}

async function renderViews() {
  renders += 1;
  const turn = renders;
  const place = byId("views");
  const some = query.views.length > 0;
  byId("drop").classList.toggle("compact", some);
  show(byId("more"), some);
  show(byId("settings"), some);
  show(byId("combine-field"), query.views.length > 1);
  const figures = await Promise.all(query.views.map(async (view) => {
    const figure = make("figure", { class: `view ${view.role}` });
    const caption = make("figcaption", {}, make("span", {}, `${NAMES[view.role]}: ${view.name}`));
    try {
      const editor = await editorOf(view);
      figure.append(editor.element);
      caption.append(editor.deletion);
      figure.append(make("p", { class: "help" }, view.boxes.length || editor.offered.length === 0
        ? "Draw a box around the object. Without one, what the model finds is searched for."
        : "Draw a box, or click a dashed one to search with it."));
    } catch (error) {
      figure.append(make("p", { class: "notice error" }, error.message));
    }
    const remove = make("button", { type: "button", class: "small", onclick: () => removeView(view) }, "Remove photo");
    caption.append(remove);
    figure.append(caption);
    return figure;
  }));
  if (turn === renders) place.replaceChildren(...figures); // else they have changed meanwhile
}

function removeView(view) {
  query.views = query.views.filter((other) => other !== view);
  const [first] = query.views;
  if (first && !query.views.some((other) => other.role === "photo")) {
    const promoted = query.views.find((other) => other.role === "like");
    if (promoted) promoted.role = "photo";
    else query.views = [];
  }
  renderViews();
}

async function start(view, searches) {
  say(byId("query-message"), "");
  library.close();
  query.views = [view];
  await renderViews();
  byId("query").scrollIntoView({ block: "nearest" });
  if (searches) await run();
  else if (view.role === "photo") byId("views").querySelector(".canvas")?.focus();
}

async function addFile(file, role) {
  if (!file) return;
  if (info && file.size > info.limits.body_bytes) {
    complain(new Error(`${file.name}: expected at most ${info.limits.body_bytes} bytes, found ${file.size}.`));
    return;
  }
  const view = { role, file: keep(file), name: file.name || "photo", boxes: [] };
  if (role === "photo") await start(view, false);
  else {
    query.views.push(view);
    await renderViews();
  }
}

// ---- searching

function read() {
  query.where = filter.value;
  query.k = Math.min(1000, Math.max(1, Math.round(Number(byId("k").value)) || 60));
  query.combine = byId("combine").value;
  query.most = Math.max(0, Number(byId("false").value) || 0);
}

async function run(keepAddress = false) {
  if (!query.views.length) return;
  read();
  say(byId("query-message"), "");
  filter.complain("");
  library.close();
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const { request, parts } = toRequest(query);
  if (!keepAddress) {
    const address = toAddress(query);
    if (address !== location.hash) history.pushState(null, "", address);
  }
  hits.begin();
  byId("search").disabled = true;
  try {
    const answer = await search(request, parts, signal);
    hits.set(answer);
    if (matchMedia("(max-width: 60rem)").matches) byId("results").scrollIntoView({ block: "start" });
    document.title = `${answer.hits.length ? scoreText(answer.hits[0].score) : "nothing"} · objemb`;
  } catch (error) {
    if (error.name === "AbortError") return;
    hits.fail();
    complain(error);
  } finally {
    if (running?.signal === signal) byId("search").disabled = false;
  }
}

async function followAddress() {
  const kept = fromAddress(location.hash);
  running?.abort();
  say(byId("query-message"), "");
  library.close();
  query = kept || { ...EMPTY };
  filter.value = query.where;
  byId("k").value = query.k;
  byId("combine").value = query.combine;
  byId("false").value = query.most || "";
  await renderViews();
  const present = query.views.every((view) => view.image !== undefined || fileOf(view));
  if (query.views.length && present) await run(true);
  else show(byId("results"), false);
}

function openLibrary() {
  show(byId("results"), false);
  library.open(filter.value);
}

// ---- events

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    byId("copied").textContent = "Copied";
  } catch {
    byId("copied").textContent = text; // without permission it can be copied by hand
  }
}

const drop = byId("drop");
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", over);
    if (name === "drop") addFile(event.dataTransfer?.files[0], "photo");
  });
}
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
  if (file) addFile(file, "photo");
});
for (const [id, role] of [["file", "photo"], ["like-file", "like"], ["unlike-file", "unlike"]]) {
  byId(id).addEventListener("change", async (event) => {
    const [file] = event.target.files;
    await addFile(file, role);
    event.target.value = "";
  });
}
byId("search").addEventListener("click", () => run());
byId("browse").addEventListener("click", openLibrary);
byId("to-library").addEventListener("click", openLibrary);
byId("to-start").addEventListener("click", () => {
  history.pushState(null, "", location.pathname);
  followAddress();
});
byId("copy-command").addEventListener("click", () => copy(asCommand(query, info?.index.name || "my_index")));
byId("copy-curl").addEventListener("click", () => copy(asCurl(query, location.origin, Boolean(sessionStorage.getItem("objemb-token")))));
window.addEventListener("popstate", followAddress);

async function begin() {
  try {
    info = await getInfo();
    filter.columns = info.index.columns;
    show(byId("false-field"), info.index.calibrated);
    byId("about").textContent = `${info.index.name}: ${info.index.images} photos, ${info.model.method}`
      + (info.model.untrained.length ? " (random weights: similarities mean little)" : "");
    if (info.index.images === 0) complain(new Error("The index is empty: objemb index adds photos."));
  } catch (error) {
    complain(error);
  }
  // whoever was quicker than the service has begun a search already
  if (location.hash && !query.views.length) await followAddress();
}

begin();
