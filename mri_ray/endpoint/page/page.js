// Files in, answers out, all in this tab: nothing is stored, and names of files are never sent.
"use strict";

const $ = (id) => document.getElementById(id);
const AT_ONCE = 2; // requests
const state = { key: "", model: null, visit: [], entry: null, slice: null, point: null, waiting: [], running: 0 };

const percent = (p) => (p === null ? "–" : p.toFixed(3));
const made = (tag, text, kind) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};

async function ask(path, options = {}) {
  const headers = state.key ? { "X-API-Key": state.key } : {};
  const reply = await fetch(path, { ...options, headers, cache: "no-store" });
  const document_ = await reply.json().catch(() => ({}));
  if (reply.ok) return document_;
  if (reply.status === 401) showAccess();
  const after = Number(reply.headers.get("Retry-After"));
  throw Object.assign(new Error(document_.detail || `the endpoint answered ${reply.status}`), {
    status: reply.status, reason: document_.reason, remedy: document_.remedy, after,
  });
}

function showAccess() {
  $("access").hidden = false;
  $("key").focus();
}

async function look() {
  try {
    state.model = await ask("v1/model");
  } catch (error) {
    $("bundle").textContent = error.status === 401 ? "needs a key" : "not ready";
    return;
  }
  const answering = state.model.bundles.filter((one) => !one.shadow && one.share > 0);
  $("bundle").textContent = answering.map((one) => one.bundle.slice(0, 8)).join(", ");
  $("bundle").title = answering.map((one) => one.bundle).join("\n");
  await lookAtDrift();
}

async function lookAtDrift() {
  try {
    const told = await ask("v1/drift");
    const order = ["drifted", "watch", "steady", "too few", "unknown"];
    const worst = told.bundles.sort((a, b) => order.indexOf(a.status) - order.indexOf(b.status))[0];
    if (!worst) return;
    const words = {
      drifted: `away from training (${worst.worst})`, watch: `watch (${worst.worst})`, steady: "steady",
      "too few": `too few slices yet (${worst.slices})`, unknown: "no reference in the bundle",
    };
    $("drift").textContent = words[worst.status];
    $("drift").className = { drifted: "positive", watch: "refer", steady: "negative" }[worst.status] || "";
    $("drift").title = "Last slices of one replica against those that the bundle was made on";
  } catch {
    $("drift").textContent = "not known";
  }
}

// ---- uploads

function take(files) {
  const list = [...files].filter((file) => file.size > 0);
  if (!list.length) return;
  const name = list.length === 1 ? list[0].name : `${list.length} files, from ${list[0].name}`;
  const entry = { name, files: list.length, open: list.length, slices: [], answers: [], failures: [] };
  state.visit.unshift(entry);
  for (const file of list) state.waiting.push({ entry, file });
  show(entry);
  work();
}

async function work() {
  while (state.running < AT_ONCE && state.waiting.length) {
    const { entry, file } = state.waiting.shift();
    state.running += 1;
    scored(entry, file).finally(() => {
      state.running -= 1;
      entry.open -= 1;
      if (entry === state.entry) show(entry, state.slice); else drawVisit();
      if (!state.running && !state.waiting.length) lookAtDrift();
      work();
    });
  }
}

async function scored(entry, file, tries = 5, heatmap = "heatmap=png&") {
  try {
    const answer = await ask(`v1/predict?${heatmap}picture=png`, { method: "POST", body: file });
    entry.answers.push(answer);
    for (const slice of answer.slices) {
      const place = [entry.files > 1 ? file.name : null, slice.member === null ? null : `file ${slice.member + 1}`,
        `frame ${slice.frame + 1}`].filter(Boolean).join(", ");
      entry.slices.push({ ...slice, place, point: answer.operating_point });
    }
    for (const failed of answer.failed) {
      const frame = failed.frame === null ? "" : `frame ${failed.frame + 1}: `;
      entry.failures.push(`${frame}${failed.reason}`);
    }
    entry.slices.sort((a, b) => b.probability - a.probability);
  } catch (error) {
    if (error.reason === "oversized.frames" && heatmap) return scored(entry, file, tries, "");  // too many for maps
    if (error.status === 503 && tries > 0) {
      await new Promise((done) => setTimeout(done, 1000 * (error.after || 1)));
      return scored(entry, file, tries - 1, heatmap);
    }
    const which = entry.files > 1 ? `${file.name}: ` : "";
    entry.failures.push(`${which}${error.message}${error.remedy ? ` – ${error.remedy}` : ""}`);
  }
}

// ---- what is shown

function show(entry, slice) {
  if (entry !== state.entry) state.point = null;
  state.entry = entry;
  state.slice = slice && entry.slices.includes(slice) ? slice : entry.slices[0] || null;
  drawVisit();
  drawStrip();
  drawSlice();
  drawStudy();
}

function decisionOf(slice) {
  if (state.point === null) return slice.decision;
  return slice.probability >= state.point ? "positive" : "negative";
}

function summary(entry) {
  if (entry.open) return entry.files > 1 ? `${entry.open} of ${entry.files} to come` : "being answered";
  if (!entry.slices.length) return "no answer";
  const study = entry.answers.length === 1 ? entry.answers[0].study : null;
  if (study && study.decision) return `${percent(study.probability)} ${study.decision}`;
  return `highest ${percent(entry.slices[0].probability)}`;
}

function drawVisit() {
  $("nothing").hidden = state.visit.length > 0;
  $("visit").replaceChildren(...state.visit.map((entry) => {
    const button = made("button");
    button.type = "button";
    button.setAttribute("aria-current", String(entry === state.entry));
    button.append(made("span", entry.name), made("span", summary(entry), entry.open ? "told busy" : "told"));
    button.title = entry.name;
    button.addEventListener("click", () => show(entry));
    const item = made("li");
    item.append(button);
    return item;
  }));
}

const shown = (slice) => `data:image/png;base64,${($("heat").checked && slice.heatmap) || slice.picture}`;

function drawStrip() {
  const slices = state.entry ? state.entry.slices : [];
  $("strip").replaceChildren(...slices.map((slice, at) => {
    const item = made("li");
    item.setAttribute("role", "option");
    item.dataset.at = at;
    const picture = made("img");
    picture.src = shown(slice);
    picture.alt = "";
    picture.loading = "lazy";
    item.append(picture, made("span", percent(slice.probability)));
    item.addEventListener("click", () => pick(at, true));
    return item;
  }));
  markStrip();
}

function markStrip() {
  [...$("strip").children].forEach((item, at) => {
    const slice = state.entry.slices[at];
    const chosen = slice === state.slice;
    item.setAttribute("aria-selected", String(chosen));
    item.setAttribute("aria-label", `${percent(slice.probability)}, ${decisionOf(slice)}, ${slice.place}`);
    item.tabIndex = chosen ? 0 : -1;
    item.lastChild.className = decisionOf(slice);
    if (chosen) item.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}

function pick(at, focus) {
  const slices = state.entry ? state.entry.slices : [];
  if (!slices.length) return;
  state.slice = slices[Math.max(0, Math.min(slices.length - 1, at))];
  markStrip();
  drawSlice();
  if (focus) $("strip").children[slices.indexOf(state.slice)].focus();
}

function drawSlice() {
  const { slice, entry } = state;
  $("picture").hidden = !slice;
  $("drop").hidden = Boolean(slice);
  $("where").textContent = slice ? slice.place : "";
  const told = slice ? decisionOf(slice) : null;
  $("probability").textContent = slice ? percent(slice.probability) : "–";
  $("decision").textContent = told
    ? `${told}${state.point === null ? "" : " at this view's point"}`
    : entry && entry.open ? "being answered" : "no slice";
  $("decision").className = told ? `tag ${told}` : "tag";
  $("flags").textContent = slice ? slice.flags.join(", ") : "";
  if (slice) {
    $("picture").src = shown(slice);
    $("picture").alt = `Slice, probability ${percent(slice.probability)}${$("heat").checked ? ", with heat map" : ""}`;
  }
  drawPoint();
}

function drawPoint() {
  const { slice, entry, point } = state;
  $("point").disabled = !slice;
  $("reset").disabled = point === null;
  if (!slice) {
    $("pointvalue").textContent = "–";
    $("above").textContent = "";
    return;
  }
  const threshold = point === null ? slice.point.threshold : point;
  const band = slice.point.refer;
  if (point === null) $("point").value = threshold;
  $("pointvalue").textContent = `${percent(threshold)}${point === null ? " (the bundle's)" : ""}`;
  const above = entry.slices.filter((each) => each.probability >= threshold).length;
  const referred = point === null && band ? `; referred from ${percent(band[0])} to ${percent(band[1])}` : "";
  $("above").textContent = `${above} of ${entry.slices.length} slices at or above it${referred}`;
}

function drawStudy() {
  const entry = state.entry;
  const rows = [];
  if (entry.answers.length === 1 && entry.files === 1) {
    const { study, timings_ms: took, bundle } = entry.answers[0];
    rows.push(["Probability", percent(study.probability)], ["Decision", study.decision || "none: all are blank"],
      ["Slices that count", `${study.counted} of ${study.slices}`], ["Answered in", `${Math.round(took.total)} ms`],
      ["By", bundle.slice(0, 8)]);
    if (study.flags.length) rows.push(["Flags", study.flags.join(", ")]);
  } else if (entry.slices.length) {
    rows.push(["Files answered", `${entry.answers.length} of ${entry.files}`],
      ["Highest slice", percent(entry.slices[0].probability)], ["As one study", "send them as a zip"]);
  }
  $("study").replaceChildren(...rows.map(([name, value]) => {
    const row = made("div");
    row.append(made("dt", name), made("dd", value));
    return row;
  }));
  $("failures").replaceChildren(...entry.failures.map((text) => made("li", text)));
}

// ---- hands

const KEYS = {
  ArrowRight: () => step(1), ArrowLeft: () => step(-1), Home: () => pick(0, true), End: () => pick(Infinity, true),
  ArrowDown: () => turn(1), ArrowUp: () => turn(-1),
  h: () => $("heat").click(), o: () => $("files").click(),
};
const step = (by) => pick(state.entry ? state.entry.slices.indexOf(state.slice) + by : 0, true);
const turn = (by) => {
  const next = state.visit[state.visit.indexOf(state.entry) + by];
  if (next) show(next);
};

document.addEventListener("keydown", (event) => {
  const target = event.target;
  const typing = target.matches("input:not([type=checkbox]):not([type=file]), summary") && !target.disabled;
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
for (const id of ["choose", "choosehere"]) $(id).addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => {
  take($("files").files);
  $("files").value = "";
});
$("heat").addEventListener("change", () => {
  drawStrip();
  if (state.entry) drawSlice();
});
$("point").addEventListener("input", () => {
  state.point = Number($("point").value);
  markStrip();
  drawSlice();
});
$("reset").addEventListener("click", () => {
  state.point = null;
  markStrip();
  drawSlice();
  $("point").focus();
});
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = $("key").value;
  $("key").value = "";
  $("access").hidden = true;
  look();
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files);
});

look();
