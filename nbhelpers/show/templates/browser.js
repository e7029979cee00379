"use strict";
// Reads a run's samples, in samples.html and in JupyterLab: `start(root, source)`, where the source finds groups and
// hands them over (page_source.js from the page itself, kernel_source.js from a kernel).
// Every text of a model or a data set reaches the page through textContent; nothing here parses markup.

const HTML_TAGS = new Set(["b", "i", "code", "pre", "table", "tr", "th", "td"]);
const MATHML = new Set(("math mrow mi mn mo mtext mspace mfrac msqrt mroot mstyle msub msup msubsup munder mover munderover "
  + "mtable mtr mtd mpadded mphantom menclose").split(" "));
const ATTRIBUTES = new Set(("display displaystyle linethickness stretchy fence form width columnalign class "
  + "mathvariant").split(" "));
const ACTS_UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}]/u;
const FOLD = 400; // characters of reasoning that stand open
const BLANK = " \t\r\n\f\v";

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  for (const child of children) if (child !== null) made.append(child);
  return made;
}

function button(label, title, act, className = "") {
  const made = element("button", className, label);
  made.type = "button";
  made.title = title;
  made.addEventListener("click", act);
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

function textBox(tag, className, ...children) {
  const box = element(tag, ("text " + className).trim(), ...children);
  box.dir = "auto";
  return box;
}

// A tree that Python set (typeset.py): known tags and attributes only.
function built(nodes) {
  const part = document.createDocumentFragment();
  for (const node of nodes) {
    if (typeof node === "string") { part.append(visible(node)); continue; }
    const [tag, attributes, ...inside] = node;
    if (!HTML_TAGS.has(tag) && !MATHML.has(tag)) continue;
    const made = MATHML.has(tag) ? document.createElementNS("http://www.w3.org/1998/Math/MathML", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (ATTRIBUTES.has(name)) made.setAttribute(name, value);
    made.append(built(inside));
    part.append(made);
  }
  return part;
}

function strip(text) {
  let from = 0, to = text.length;
  while (from < to && BLANK.includes(text[from])) from++;
  while (to > from && BLANK.includes(text[to - 1])) to--;
  return text.slice(from, to);
}

function segments(text, delimiters) {
  const [thinks, thought, solves, solved] = delimiters;
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

// Solutions first; one that was not written last says so.
function readingOrder(pieces) {
  const last = pieces.reduce((found, piece, place) => (piece[0] === "solution" ? found : place), -1);
  const solutions = pieces.flatMap(([role, label, text], place) => (role === "solution" ? [[role, place < last ? label + ", before other text" : label, text]] : []));
  return [...solutions, ...pieces.filter((piece) => piece[0] !== "solution")];
}

// The words of two texts in one row of [sign, words]: = in both, - in the first only, + in the second only.
function wordDiff(before, after) {
  const words = (text) => (text.match(/[ \t\r\n\f\v]+|[\p{L}\p{N}_]+[ \t\r\n\f\v]*|[^\p{L}\p{N}_ \t\r\n\f\v][ \t\r\n\f\v]*/gu) || []).slice(0, 1200);
  const a = words(before), b = words(after), wide = b.length + 1;
  const common = new Uint16Array((a.length + 1) * wide);
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) {
    common[i * wide + j] = a[i] === b[j] ? common[(i + 1) * wide + j + 1] + 1 : Math.max(common[(i + 1) * wide + j], common[i * wide + j + 1]);
  }
  const row = [];
  const add = (sign, word) => { if (row.length && row[row.length - 1][0] === sign) row[row.length - 1][1] += word; else row.push([sign, word]); };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { add("=", a[i]); i++; j++; }
    else if (j >= b.length || (i < a.length && common[(i + 1) * wide + j] >= common[i * wide + j + 1])) add("-", a[i++]);
    else add("+", b[j++]);
  }
  return row;
}

const numberText = (value) => (value === null ? "none" : String(Math.round(value * 1000) / 1000));
const signed = (value) => (value < 0 ? "" : "+") + value.toFixed(2);

function segmentBox([role, label, text], nodes) {
  const written = () => (nodes ? built(nodes) : visible(text));
  if (role === "solution") return element("div", "segment solution", element("div", "label", label), textBox("div", "", text.length > FOLD ? clipped(text, FOLD) : written()));
  const fold = element("details", "segment fold " + role);
  const letters = [...text];
  const count = letters.length > FOLD ? ` · ${letters.length.toLocaleString("en")} characters` : "";
  fold.append(element("summary", "", element("span", "label", label + count), element("span", "teaser", visible(letters.slice(0, 160).join("")), letters.length > 160 ? "…" : "")));
  const fill = () => { if (fold.children.length === 1) fold.append(textBox("div", letters.length > 5000 ? "long" : "", written())); };
  fold.addEventListener("toggle", () => { if (fold.open) fill(); });
  fold.fill = fill;
  fold.open = letters.length <= FOLD;
  if (letters.length <= 20000) fill();
  return fold;
}

function chips(row, rewards) {
  const [, , paid, , advantage, length, cut] = row;
  const box = element("div", "chips");
  const chip = (className, ...children) => box.append(element("span", ("chip " + className).trim(), ...children));
  paid.forEach((value, place) => { if (value !== undefined) chip("", visible(rewards[place]), " " + numberText(value)); });
  if (advantage !== null) chip(advantage > 0 ? "plus" : advantage < 0 ? "minus" : "", "advantage " + signed(advantage));
  if (length !== null) chip("", `${length} tokens`);
  if (cut) chip("alarm", "cut off");
  return box;
}

const MARKS = { unjudged: "not judged", right: "✓ right", wrong: "✗ wrong" };

function completionCard(row, info) {
  const [text, reason, , reward, , , , correct, , when, trees] = row;
  const judged = correct === null ? "unjudged" : correct ? "right" : "wrong";
  const said = [when, reward === null ? "" : "reward " + numberText(reward)].filter(Boolean).join(" · ");
  const card = element("article", "completion " + judged, element("div", "verdict", element("span", "mark", MARKS[judged]), element("span", "", said)));
  const pieces = readingOrder(segments(text, info.delimiters));
  const boxes = pieces.map((piece, place) => segmentBox(piece, trees && trees[place]));
  const solutions = boxes.filter((box) => box.classList.contains("solution"));
  card.append(...solutions);
  if (!pieces.length) card.append(element("div", "segment outside", element("div", "label", "empty completion")));
  if (reason) card.append(textBox("div", "reason", clipped(reason, 300)));
  card.append(chips(row, info.rewards), ...boxes.filter((box) => !solutions.includes(box)));
  if (trees) card.append(element("details", "more raw", element("summary", "", "as written"), textBox("div", "", visible(text))));
  return card;
}

function problemCard([, , question, choices, answer, unit, trees], picture, square) {
  const written = (text, place, limit) => (trees && trees[place] ? built(trees[place]) : clipped(text, limit));
  const card = element("div", "problem");
  if (!picture) card.append(element("p", "noimage", "no picture"));
  else {
    const image = element("img");
    image.src = picture;
    image.alt = "the problem's picture";
    const zoom = button(image, "enlarge beside the completions (z)", () => toggleZoom(card.closest(".group")), "picture");
    zoom.setAttribute("aria-pressed", "false");
    card.append(zoom);
    if (square) card.append(button("what the model sees", `${square} × ${square} pixels, whatever the picture's shape`, (event) => seeAsModel(event.target, image, square), "link"));
  }
  const asked = element("div", "", element("div", "label", "question"), textBox("div", "question", written(question, 0, 700)));
  if (choices) asked.append(element("ul", "choices", ...choices.map((choice, place) => element("li", "", `(${String.fromCharCode(65 + place)}) `, textBox("span", "", written(choice, place + 1, 200))))));
  const gold = element("div", "gold", element("div", "label", "gold answer"), textBox("b", "", written(answer, choices ? choices.length + 1 : 1, 200)));
  if (unit) gold.append(" ", visible(unit));
  card.append(asked, gold);
  return card;
}

function toggleZoom(group, on = !group.classList.contains("zoomed")) {
  group.classList.toggle("zoomed", on);
  for (const picture of group.querySelectorAll(".picture")) picture.setAttribute("aria-pressed", String(on));
}

function seeAsModel(control, image, square) {
  const shown = control.parentNode.querySelector("canvas");
  if (shown) { shown.remove(); image.hidden = false; control.textContent = "what the model sees"; return; }
  const canvas = element("canvas", "seen");
  canvas.width = canvas.height = square;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `the picture as ${square} × ${square} pixels`);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, square, square);
  image.hidden = true;
  image.after(canvas);
  control.textContent = `${square} × ${square} pixels; show the picture`;
}

function differences(group, info) {
  const names = group.rows.map((row, place) => `${place + 1}: ${row[9] || (row[7] ? "right" : "wrong")}`);
  const box = element("div", "differences");
  const pick = (label, chosen) => {
    const select = element("select", "", ...names.map((name, place) => choice(name, String(place))));
    select.value = String(chosen);
    select.addEventListener("change", draw);
    box.append(element("label", "", label + " ", select));
    return select;
  };
  const shown = textBox("div", "diff");
  const draw = () => shown.replaceChildren(...wordDiff(group.rows[first.value][0], group.rows[second.value][0]).map(([sign, words]) => element({ "=": "span", "-": "del", "+": "ins" }[sign], "", visible(words))));
  const right = Math.max(0, group.rows.findIndex((row) => row[7]));
  const pair = group.rows[0][9] ? [0, group.rows.length - 1] : [right === 0 ? Math.max(1, group.rows.findIndex((row) => !row[7])) : 0, right];
  const first = pick("from", pair[0]), second = pick("to", pair[1]);
  box.append(element("span", "label", "struck: only in the first; underlined: only in the second"), shown);
  draw();
  return box;
}

// The log-prob of each token when it was sampled, as colour under the text: the deeper, the less likely it was.
function colouredWords([text, , , , , , , , , , , tokens]) {
  const letters = [...text], [lengths, values] = tokens;
  const reach = Math.max(...values.map(Math.abs)) || 1;
  const box = element("div", "words", element("div", "label", `log-probability when it was sampled, in nats: ${(-reach).toFixed(2)} (deep) to 0 (pale)`));
  let place = 0;
  lengths.forEach((length, at) => {
    const word = element("span", "word", visible(letters.slice(place, place + length).join("") || "⏎"));
    place += length;
    word.tabIndex = 0;
    word.dataset.told = values[at].toFixed(2);
    word.style.background = `rgba(213,94,0,${(0.55 * Math.sqrt(Math.abs(values[at]) / reach)).toFixed(2)})`;
    box.append(word);
  });
  return box;
}

const flat = (rows) => rows.length > 1 && rows.every((row) => row[3] !== null && Math.abs(row[3] - rows[0][3]) < 1e-6);

function choice(label, value) {
  const made = element("option", "", visible(label));
  made.value = value;
  return made;
}

// A table as the world's programs read it; a cell that a spreadsheet would take for a formula gets a quote before it.
function asCsv(rows) {
  const names = [...new Set(rows.flatMap(Object.keys))];
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return [names, ...rows.map((row) => names.map((name) => row[name]))].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

const asJsonl = (rows) => rows.map((row) => JSON.stringify(row) + "\n").join("");

function exportRow(group, place, role, info, notes) {
  const [text, reason, paid, reward, advantage, length, cut, correct, error, when] = group.rows[place];
  const [pid, kind, question, choices, answer, unit] = group.problem;
  const key = `${group.key}/${place}`;
  const row = { key, role, step: group.step, when, pid, kind, question, choices, answer, unit, completion: text, correct, error, reason, reward, advantage, length, cut_off: cut };
  paid.forEach((value, at) => { if (value !== undefined) row["reward_" + info.rewards[at]] = value; });
  return { ...row, marked: notes.has(key), note: notes.get(key) ?? "" };
}

function save(name, text) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const KEYS = [["j, k", "next, previous group"], ["← →", "turn the page"], ["n, p", "next, previous hit"], ["/", "search"], ["m", "mark"], ["d", "differences"], ["z", "zoom"], ["Esc", "close"], ["?", "this line"]];
const FIRST = { role: "rollout", show: "all", kind: "", error: "", step: "", order: "sampled", text: "", pid: "", marked: "" };

class Browser {
  constructor(root, source, { perPage, address = null }) {
    Object.assign(this, { root, source, info: source.info, perPage, address, state: { ...FIRST, role: source.info.first ?? FIRST.role }, found: [], cards: [], at: 0, first: 0, turn: 0 });
    if (!this.view()) this.state.role = this.info.views[0].role;
    root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's own keys stay out of here
    this.controls();
    root.addEventListener("keydown", (event) => this.key(event));
    if (address) {
      this.read();
      window.addEventListener("hashchange", () => { if (location.hash !== this.written) { this.read(); this.fill(); this.select(this.wanted); } });
      document.addEventListener("keydown", (event) => { if (!root.contains(event.target)) this.key(event); });
    }
    this.fill();
    this.select(this.wanted);
  }

  view() { return this.info.views.find((view) => view.role === this.state.role); }

  controls() {
    this.inputs = {};
    const select = (name, label) => {
      this.inputs[name] = element("select");
      this.inputs[name].addEventListener("change", () => this.change(name, this.inputs[name].value));
      return element("label", "", label + " ", this.inputs[name]);
    };
    const step = element("input");
    step.type = "range";
    step.min = "0";
    step.addEventListener("input", () => this.change("step", step.value === "0" ? "" : String(this.view().steps[step.value - 1])));
    this.inputs.step = step;
    this.stepName = element("output", "step-name");
    const text = element("input");
    text.type = "search";
    text.placeholder = "id, question, answer, completion, reason";
    text.addEventListener("input", () => { clearTimeout(this.waiting); this.waiting = setTimeout(() => this.change("text", text.value), 200); });
    this.inputs.text = text;
    this.hitName = element("output", "hits");
    const marked = element("input");
    marked.type = "checkbox";
    marked.addEventListener("change", () => this.change("marked", marked.checked ? "1" : ""));
    this.inputs.marked = marked;
    this.back = button("‹", "turn back (left arrow)", () => this.page(-1), "back");
    this.forward = button("›", "turn on (right arrow)", () => this.page(1), "forward");
    this.place = element("output", "place");
    this.place.setAttribute("aria-live", "polite");
    this.all = button("every problem again", "leave this problem", () => this.change("pid", ""), "all");
    this.stepLabel = element("label", "", "step ", step, this.stepName);
    const bar = element("div", "controls", select("role", "look at"), select("show", "show"), select("kind", "kind"), select("error", "error"), select("order", "sort by"),
      this.stepLabel, element("label", "", "search ", text), this.hitName, element("label", "", marked, " marked only"), element("span", "pager", this.back, this.place, this.forward), this.all, this.menu());
    bar.setAttribute("role", "search");
    bar.setAttribute("aria-label", "which samples to show");
    this.help = element("p", "keys", ...KEYS.flatMap(([key, does]) => [element("kbd", "", key), ` ${does}  `]));
    this.body = element("div", "groups");
    this.said = element("p", "note said");
    this.root.append(bar, this.help, this.said, this.body);
  }

  menu() {
    const inside = element("div", "menu");
    const add = (label, act) => inside.append(button(label, label, act));
    for (const form of ["jsonl", "csv"]) {
      add(`marks as ${form.toUpperCase()}`, () => this.export("marks", form));
      add(`this selection as ${form.toUpperCase()}`, () => this.export("selection", form));
    }
    if (this.source.refresh) add("take in what was written since", async () => { this.info = await this.source.refresh(); this.fill(); this.select(this.current()?.key); });
    const fold = element("details", "exports", element("summary", "", "export"), inside);
    return fold;
  }

  // state

  read() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(FIRST)) this.state[name] = given.get(name) ?? FIRST[name];
    if (!this.view()) this.state.role = this.info.views[0].role;
    if (!(this.state.show in this.view().filters)) this.state.show = "all";
    this.wanted = given.get("at") ?? undefined;
    this.written = location.hash;
  }

  write() {
    if (!this.address) return;
    const given = new URLSearchParams(Object.entries(this.state).filter(([name, value]) => value !== FIRST[name]));
    if (this.current()) given.set("at", this.current().key);
    this.written = "#" + given;
    try { history.replaceState(null, "", this.written); } catch { location.replace(this.written); }
  }

  fill() {
    const view = this.view();
    const options = {
      role: this.info.views.map((one) => [`${one.label} (${one.count.toLocaleString("en")})`, one.role]),
      show: Object.entries(view.filters).map(([key, label]) => [label, key]),
      kind: [["every kind", ""], ...view.kinds.map((kind) => [kind, kind])],
      error: [["any", ""], ...this.info.errors.map((kind) => [kind, kind])],
      order: Object.entries(this.info.orders).map(([key, label]) => [label, key]),
    };
    for (const [name, pairs] of Object.entries(options)) this.inputs[name].replaceChildren(...pairs.map(([label, value]) => choice(label, value)));
    for (const name of [...Object.keys(options), "text"]) this.inputs[name].value = this.state[name];
    this.inputs.marked.checked = this.state.marked === "1";
    this.inputs.step.max = view.steps.length;
    this.inputs.step.value = this.state.step === "" ? 0 : view.steps.indexOf(Number(this.state.step)) + 1;
    this.stepLabel.hidden = view.steps.length < 2;
    this.named();
  }

  named() {
    this.stepName.textContent = this.state.step === "" ? "every" : this.state.step;
    this.inputs.step.setAttribute("aria-valuetext", this.stepName.textContent);
    this.all.hidden = this.state.pid === "";
  }

  change(name, value) {
    const here = this.current();
    this.state[name] = value;
    if (name === "role") { Object.assign(this.state, { show: "all", kind: "", step: "", pid: "" }); this.fill(); }
    if (name === "pid" && value) Object.assign(this.state, { step: "", show: "all", kind: "", error: "", text: "", order: "sampled" });
    if (name === "pid") this.fill();
    if (name !== "pid" && name !== "marked" && this.state.pid) { this.state.pid = ""; }
    this.named();
    this.select(name === "role" ? undefined : here?.key, here?.step);
  }

  // finding and drawing

  current() { return this.cards?.[this.at]?.group; }

  // `drawing` ends with what is drawn now, or with nothing where something else is asked for meanwhile; `aim` is the place
  // that it brings, undefined as long as that is looked for. Keys count from there: a kernel may take its time. `still` says
  // that the cards are those of `found`.
  select(key, step) { return (this.drawing = this.selected(key, step)); }

  draw(place) { return (this.drawing = this.drawn(place, ++this.turn)); }

  async selected(key, step) {
    const mine = ++this.turn;
    this.aim = undefined;
    this.still = false;
    const found = await this.source.find(this.state, key, step);
    if (mine !== this.turn) return false;
    this.found = found.numbers;
    return this.drawn(found.place ?? 0, mine);
  }

  async drawn(place, mine) {
    this.aim = place;
    this.still = false;
    const first = place - (place % this.perPage);
    const groups = await this.source.groups(this.state.role, this.found.slice(first, first + this.perPage), true);
    if (mine !== this.turn) return false;
    this.first = first;
    this.still = true;
    const pages = Math.max(1, Math.ceil(this.found.length / this.perPage)), page = this.first / this.perPage + 1;
    const count = this.found.length.toLocaleString("en"), what = this.state.role === "rollout" ? "group" : "problem";
    this.place.textContent = !this.found.length ? `no ${what} matches` : this.perPage === 1 ? `${what} ${page.toLocaleString("en")} of ${count}` : `page ${page} of ${pages} (${count} ${what}s)`;
    this.back.disabled = page <= 1;
    this.forward.disabled = page >= pages;
    this.cards = groups.map((group) => ({ group, card: this.groupCard(group) }));
    const focused = this.body.contains(document.activeElement);
    this.body.replaceChildren(...this.cards.map((one) => one.card));
    this.said.textContent = this.found.length ? this.view().note : "Nothing matches; widen the filters.";
    this.highlight();
    this.go(place - this.first, false);
    if (focused) (this.cards[this.at]?.card ?? this.root).focus({ preventScroll: true }); // not out of here, where keys do other things
    return true;
  }

  go(at, scroll = true) {
    this.at = at;
    this.aim = this.first + at;
    this.cards.forEach((one, place) => one.card.classList.toggle("current", place === at));
    if (scroll && this.cards[at]) { this.cards[at].card.scrollIntoView({ block: "nearest" }); this.cards[at].card.focus({ preventScroll: true }); }
    this.write();
  }

  async page(by) {
    while (this.aim === undefined) await this.drawing;
    const place = this.aim - (this.aim % this.perPage) + by * this.perPage;
    if (place < 0 || place >= this.found.length) return;
    if (!(await this.draw(place))) return;
    if (this.address) window.scrollTo(0, 0); else this.body.scrollTop = 0;
  }

  async step(by) {
    while (this.aim === undefined) await this.drawing;
    const place = this.aim + by;
    if (place < 0 || place >= this.found.length) return;
    if (this.still && place >= this.first && place < this.first + this.cards.length) this.go(place - this.first);
    else if (await this.draw(place)) this.go(place - this.first);
  }

  groupCard(group) {
    const [pid, kind] = group.problem;
    const right = group.rows.filter((row) => row[7]).length;
    const bold = (label, text) => element("span", "", label, element("b", "", visible(text)));
    const head = element("div", "head", group.step !== null ? bold("step ", String(group.step)) : null, bold("problem ", pid), kind ? bold("kind ", kind) : null,
      element("span", "", element("b", "", String(right)), ` of ${group.rows.length} right`));
    if (this.state.role === "rollout" && flat(group.rows)) head.append(element("span", "", "zero variance: this group teaches nothing"));
    const card = element("section", "group");
    card.tabIndex = -1;
    card.setAttribute("aria-label", `problem ${pid}`);
    if (group.visits > 1 && !this.state.pid) head.append(button(`this problem through training (${group.visits})`, "its groups, step by step", () => this.change("pid", pid), "link"));
    if (group.rows.length > 1) head.append(button("differences", "words that differ between two completions (d)", () => this.differences(group, card), "link diff-button"));
    if (group.rows.some((row) => row[11])) head.append(button("words", "each token's log-probability when it was sampled (w)", () => {
      const shown = card.querySelectorAll(".completion .words");
      if (shown.length) for (const one of shown) one.remove();
      else group.rows.forEach((row, place) => { if (row[11]) card.querySelectorAll(".completion")[place].append(colouredWords(row)); });
    }, "link words-button"));
    const rows = group.rows.map((row, place) => {
      const made = completionCard(row, this.info);
      made.querySelector(".verdict").append(this.star(`${group.key}/${place}`, made));
      return made;
    });
    card.append(head, element("div", "body", problemCard(group.problem, group.picture, this.info.square), element("div", "side", element("div", "completions n" + rows.length, ...rows))));
    return card;
  }

  differences(group, card) {
    const shown = card.querySelector(".differences");
    if (shown) shown.remove(); else card.querySelector(".side").prepend(differences(group, this.info));
  }

  // marks

  star(key, card) {
    const notes = this.source.marks;
    const note = element("input", "remark");
    note.type = "text";
    note.placeholder = "note";
    note.setAttribute("aria-label", "note on this sample");
    const star = button("", "mark this sample (m)", () => this.mark(key, notes.has(key) ? null : "", show), "star");
    const show = () => {
      star.textContent = notes.has(key) ? "★ marked" : "☆ mark";
      star.setAttribute("aria-pressed", String(notes.has(key)));
      note.hidden = !notes.has(key);
      note.value = notes.get(key) ?? "";
    };
    note.addEventListener("change", () => this.mark(key, note.value, show));
    card.append(note);
    show();
    return star;
  }

  async mark(key, note, show) {
    const notes = this.source.marks;
    if (note === null) notes.delete(key); else notes.set(key, note);
    show();
    await this.source.keep(key, note);
  }

  async export(what, form) {
    const rows = [], notes = this.source.marks;
    const views = what === "marks" ? this.info.views : [this.view()];
    for (const view of views) {
      const numbers = what === "marks" ? (await this.source.find({ ...FIRST, role: view.role, marked: "1" })).numbers : this.found;
      for (let from = 0; from < numbers.length; from += 500) {
        for (const group of await this.source.groups(view.role, numbers.slice(from, from + 500), false)) {
          group.rows.forEach((_, place) => { if (what === "selection" || notes.has(`${group.key}/${place}`)) rows.push(exportRow(group, place, view.role, this.info, notes)); });
        }
      }
    }
    this.exported = (form === "csv" ? asCsv : asJsonl)(rows);
    save(`${this.info.run}-${what}.${form}`, this.exported);
    this.said.textContent = `${rows.length.toLocaleString("en")} completions written to ${this.info.run}-${what}.${form}.`;
  }

  // hits of the search

  highlight() {
    const wanted = this.state.text.trim();
    this.hits = [];
    this.hit = -1;
    if (wanted) {
      const pattern = new RegExp(wanted.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "giu");
      this.cards.forEach((one, at) => {
        for (const fold of one.card.querySelectorAll(".fold")) fold.fill();
        const walk = document.createTreeWalker(one.card, NodeFilter.SHOW_TEXT);
        const texts = [];
        while (walk.nextNode()) if (walk.currentNode.parentElement.closest(".text, .head b") && !walk.currentNode.parentElement.closest("math, .raw")) texts.push(walk.currentNode);
        for (const text of texts) this.wrap(text, pattern, at);
      });
    }
    this.hitName.textContent = wanted && this.found.length ? `${this.hits.length} ${this.hits.length === 1 ? "hit" : "hits"} here` : "";
  }

  wrap(node, pattern, at) {
    const part = document.createDocumentFragment();
    let place = 0;
    for (const found of node.data.matchAll(pattern)) {
      const hit = element("mark", "hit", found[0]);
      part.append(node.data.slice(place, found.index), hit);
      this.hits.push({ hit, at });
      place = found.index + found[0].length;
    }
    if (place) { part.append(node.data.slice(place)); node.replaceWith(part); }
  }

  async nextHit(by) {
    while (!this.still) await this.drawing;
    if (!this.state.text.trim()) return;
    let next = this.hit + by;
    if (next < 0 || next >= this.hits.length) {
      const place = this.first + by * this.perPage;
      if (place < 0 || place >= this.found.length) return;
      if (!(await this.draw(place))) return;
      next = by > 0 ? 0 : this.hits.length - 1;
    }
    if (!this.hits[next]) return;
    this.hits[this.hit]?.hit.classList.remove("now");
    this.hit = next;
    const { hit, at } = this.hits[next];
    hit.classList.add("now");
    for (let fold = hit.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    this.go(at, false);
    hit.scrollIntoView({ block: "center" });
    this.hitName.textContent = `hit ${next + 1} of ${this.hits.length} here`;
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && event.target.type !== "checkbox";
    const onCard = (act) => async () => { while (!this.still) await this.drawing; act(this.cards[this.at]?.card); }; // not on one that is being replaced
    const acts = {
      j: () => this.step(1), k: () => this.step(-1), ArrowRight: () => this.page(1), ArrowLeft: () => this.page(-1),
      n: () => this.nextHit(1), p: () => this.nextHit(-1), "/": () => this.inputs.text.focus(), "?": () => { this.help.hidden = !this.help.hidden; },
      m: onCard((card) => (document.activeElement?.closest?.(".completion") ?? card)?.querySelector(".star")?.click()),
      d: onCard((card) => card?.querySelector(".diff-button")?.click()), z: onCard((card) => card && toggleZoom(card)), w: onCard((card) => card?.querySelector(".words-button")?.click()),
      Escape: () => { for (const one of this.cards) toggleZoom(one.card, false); for (const shown of this.root.querySelectorAll(".differences")) shown.remove(); event.target.blur?.(); this.root.focus?.({ preventScroll: true }); },
    };
    if (event.key === "Enter" && event.target === this.inputs.text) { clearTimeout(this.waiting); this.change("text", this.inputs.text.value); event.target.blur(); this.root.focus({ preventScroll: true }); event.preventDefault(); return; }
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -1e6, End: 1e6 };
    if (event.target === this.inputs.step && event.key in moves) { // JupyterLab leaves a slider no arrow keys
      event.target.value = Number(event.target.value) + moves[event.key];
      event.target.dispatchEvent(new Event("input"));
      event.preventDefault();
      return;
    }
    if (typing && event.key !== "Escape") return;
    if (!(event.key in acts)) return;
    event.preventDefault();
    event.stopPropagation();
    acts[event.key]();
  }
}
