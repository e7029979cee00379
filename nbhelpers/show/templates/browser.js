"use strict";
// Every text from the data reaches the page through textContent; nothing here parses markup.
const data = JSON.parse(document.getElementById("data").textContent);
const PER_PAGE = 5;
const byId = (id) => document.getElementById(id);
const state = { page: 0, problem: null };
const ACTS_UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}]/u;

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  for (const child of children) made.append(child);
  return made;
}

// Characters that are not seen but change what is: shown by their number.
function visible(text) {
  const part = document.createDocumentFragment();
  let plain = "";
  for (const char of text) {
    if (char === "\n" || char === "\t" || !ACTS_UNSEEN.test(char)) { plain += char; continue; }
    part.append(plain, element("span", "hidden-char", "U+" + char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")));
    plain = "";
  }
  part.append(plain);
  return part;
}

function clipped(text, limit) {
  const letters = [...text]; // a slice of the string could cut a pair of surrogates
  if (letters.length <= limit * 1.2) return visible(text);
  const part = document.createDocumentFragment();
  const more = element("details", "more", element("summary", "", `show all ${letters.length.toLocaleString("en")} characters`));
  more.addEventListener("toggle", () => {
    if (more.open && more.children.length === 1) more.append(element("div", "text", visible(text)));
  });
  part.append(visible(letters.slice(0, limit).join("")), "…", more);
  return part;
}

function textBox(tag, className, text, limit) {
  const box = element(tag, ("text " + className).trim(), clipped(text, limit));
  box.dir = "auto";
  return box;
}

function strip(text) {
  const blank = " \t\r\n\f\v";
  let from = 0, to = text.length;
  while (from < to && blank.includes(text[from])) from++;
  while (to > from && blank.includes(text[to - 1])) to--;
  return text.slice(from, to);
}

function segments(text) {
  const [thinks, thought, solves, solved] = data.delimiters;
  const pieces = [];
  let place = 0;
  while (place < text.length) {
    const starts = [[text.indexOf(thinks, place), thinks, thought, "reasoning"], [text.indexOf(solves, place), solves, solved, "solution"]];
    const found = starts.filter((start) => start[0] >= 0).sort((a, b) => a[0] - b[0])[0];
    const outside = strip(text.slice(place, found ? found[0] : text.length));
    if (outside) pieces.push(["outside", "outside the blocks", outside]);
    if (!found) break;
    const [at, opening, closing, role] = found;
    const stop = text.indexOf(closing, at + opening.length);
    const end = stop < 0 ? text.length : stop;
    pieces.push([role, stop < 0 ? role + " (never closed)" : role, strip(text.slice(at + opening.length, end))]);
    place = end + closing.length;
  }
  return pieces;
}

const numberText = (value) => (value === null ? "none" : String(Math.round(value * 1000) / 1000));
const signed = (value) => (value < 0 ? "" : "+") + value.toFixed(2);

function completionCard([text, reason, rewards, reward, advantage, length, cut, correct]) {
  const judged = correct === null ? "unjudged" : correct ? "right" : "wrong";
  const mark = { unjudged: "not judged", right: "✓ right", wrong: "✗ wrong" }[judged];
  const card = element("div", "completion " + judged, element("div", "verdict", element("span", "mark", mark), element("span", "", "reward " + numberText(reward))));
  if (reason) card.append(textBox("div", "reason", reason, 300));
  const pieces = segments(text);
  if (!pieces.length) card.append(element("div", "segment outside", element("div", "label", "empty completion")));
  for (const [role, label, piece] of pieces) card.append(element("div", "segment " + role, element("div", "label", label), textBox("div", "", piece, 900)));
  const chips = element("div", "chips");
  rewards.forEach((value, place) => { if (value !== undefined) chips.append(element("span", "chip", visible(data.rewards[place]), " " + numberText(value))); });
  if (advantage !== null) chips.append(element("span", "chip " + (advantage > 0 ? "plus" : advantage < 0 ? "minus" : ""), "advantage " + signed(advantage)));
  if (length !== null) chips.append(element("span", "chip", `${length} tokens`));
  if (cut) chips.append(element("span", "chip alarm", "cut off"));
  card.append(chips);
  return card;
}

function problemCard(problem) {
  const [, , question, choices, answer, unit, image] = problem;
  const card = element("div", "problem");
  if (data.images[image] === null) card.append(element("p", "noimage", "no picture in this file"));
  else {
    const picture = element("img");
    picture.src = data.images[image];
    picture.alt = "the problem's picture";
    picture.title = "click to enlarge";
    picture.tabIndex = 0;
    card.append(picture);
  }
  const asked = element("div", "", element("div", "label", "question"), textBox("div", "", question, 700));
  if (choices) asked.append(element("ul", "choices", ...choices.map((choice, place) => element("li", "", `(${String.fromCharCode(65 + place)}) `, textBox("span", "", choice, 200)))));
  const gold = element("div", "gold", element("div", "label", "gold answer"), textBox("b", "", answer, 200));
  if (unit) gold.append(" ", visible(unit));
  card.append(asked, gold);
  return card;
}

function groupCard(number) {
  const [step, at, completions] = data.groups[number];
  const problem = data.problems[at];
  const right = completions.filter((one) => one[7]).length;
  const head = element("div", "head",
    element("span", "", "step ", element("b", "", String(step))),
    element("span", "", "problem ", element("b", "", visible(problem[0]))),
    element("span", "", "kind ", element("b", "", visible(problem[1]))),
    element("span", "", element("b", "", String(right)), ` of ${completions.length} right`));
  if (flat(completions)) head.append(element("span", "", "zero variance: this group teaches nothing"));
  if (visits[at].length > 1 && state.problem === null) {
    const follow = element("button", "link", `this problem through training (${visits[at].length})`);
    follow.type = "button";
    follow.addEventListener("click", () => { state.problem = at; byId("step").value = 0; select(); });
    head.append(follow);
  }
  return element("section", "group", head, element("div", "body", problemCard(problem),
    element("div", "side", element("div", "completions n" + completions.length, ...completions.map(completionCard)))));
}

const flat = (completions) => completions.length > 1 && completions.every((one) => Math.abs(one[3] - completions[0][3]) < 1e-6);
const share = (number) => { const all = data.groups[number][2]; return all.filter((one) => one[7]).length / all.length; };
const visits = data.problems.map(() => []);
data.groups.forEach((group, number) => visits[group[1]].push(number));
const steps = [...new Set(data.groups.map((group) => group[0]))].sort((a, b) => a - b);
const tests = {
  "all": () => true,
  "some wrong": (number) => share(number) < 1,
  "all wrong": (number) => share(number) === 0,
  "mixed": (number) => share(number) > 0 && share(number) < 1,
  "all right": (number) => share(number) === 1,
  "zero variance": (number) => flat(data.groups[number][2]),
  "wrong to right": (number) => { const all = visits[data.groups[number][1]]; return share(all[0]) < 0.5 && share(all[all.length - 1]) >= 0.5; },
  "right to wrong": (number) => { const all = visits[data.groups[number][1]]; return share(all[0]) >= 0.5 && share(all[all.length - 1]) < 0.5; },
  "cut off": (number) => data.groups[number][2].some((one) => one[6]),
};
let found = [];

function select() {
  const show = tests[byId("show").value], kind = byId("kind").value, wanted = byId("text").value.trim().toLowerCase();
  const step = Number(byId("step").value) ? steps[Number(byId("step").value) - 1] : null;
  byId("step-name").textContent = step === null ? "every" : String(step);
  found = [];
  data.groups.forEach((group, number) => {
    if (state.problem !== null) { if (group[1] === state.problem) found.push(number); return; }
    if (step !== null && group[0] !== step) return;
    const problem = data.problems[group[1]];
    if (kind && problem[1] !== kind) return;
    if (!show(number)) return;
    if (wanted && !(problem[2].toLowerCase().includes(wanted) || problem[4].toLowerCase().includes(wanted)
      || group[2].some((one) => one[0].toLowerCase().includes(wanted)))) return;
    found.push(number);
  });
  state.page = 0;
  draw();
}

function draw() {
  const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
  byId("place").textContent = found.length ? `page ${state.page + 1} of ${pages} (${found.length.toLocaleString("en")} groups)` : "no group matches";
  byId("back").disabled = state.page === 0;
  byId("forward").disabled = state.page >= pages - 1;
  byId("all").hidden = state.problem === null;
  byId("page").replaceChildren(...found.slice(state.page * PER_PAGE, (state.page + 1) * PER_PAGE).map(groupCard));
}

function turn(by) {
  const last = Math.max(0, Math.ceil(found.length / PER_PAGE) - 1);
  const page = Math.min(Math.max(state.page + by, 0), last);
  if (page === state.page) return;
  state.page = page;
  draw();
  window.scrollTo(0, 0);
}

function option(label, value) {
  const made = element("option", "", visible(label));
  made.value = value;
  return made;
}

for (const [key, label] of Object.entries(data.filters)) byId("show").append(option(label, key));
byId("kind").append(option("every kind", ""));
for (const kind of [...new Set(data.problems.map((problem) => problem[1]))]) byId("kind").append(option(kind, kind));
byId("step").max = steps.length;
let waiting = 0;
for (const id of ["show", "kind", "step", "text"]) byId(id).addEventListener(byId(id).tagName === "SELECT" ? "change" : "input", () => {
  state.problem = null;
  clearTimeout(waiting);
  waiting = setTimeout(select, id === "text" ? 150 : 0);
});
byId("back").addEventListener("click", () => turn(-1));
byId("forward").addEventListener("click", () => turn(1));
byId("all").addEventListener("click", () => { state.problem = null; select(); });
document.addEventListener("keydown", (event) => {
  if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});
select();
