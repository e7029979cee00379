// The groups of samples.html itself. `matches` and `orders` are the twin of runs/samples.py; tests/browser compares them.
const data = JSON.parse(document.getElementById("data").textContent);
const folded = (text) => text.toLowerCase().replaceAll("ß", "ss");
const shareOf = (rows) => rows.filter((row) => row[7]).length / rows.length;
const rowsOf = (group) => group[3];
const paidFor = (row) => (row[3] === null ? Number(Boolean(row[7])) : row[3]);
const meanOf = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const spreadOf = (values) => { const mean = meanOf(values); return Math.sqrt(meanOf(values.map((value) => (value - mean) ** 2))); };

const visitsOf = {}; // of each view, the numbers of a problem's groups
for (const [role, groups] of Object.entries(data.groups)) {
  visitsOf[role] = data.problems.map(() => []);
  groups.forEach((group, number) => visitsOf[role][group[2]].push(number));
}

function firstAndLast(role, group) {
  const rows = rowsOf(group);
  if (role === "rollout") {
    const all = visitsOf[role][group[2]];
    return [all[0], all[all.length - 1]].map((number) => shareOf(rowsOf(data.groups[role][number])));
  }
  return [rows[0][9], rows[rows.length - 1][9]].map((when) => shareOf(rows.filter((row) => row[9] === when)));
}

const matches = {
  "all": () => true,
  "some wrong": (rows) => shareOf(rows) < 1,
  "all wrong": (rows) => shareOf(rows) === 0,
  "mixed": (rows) => shareOf(rows) > 0 && shareOf(rows) < 1,
  "all right": (rows) => shareOf(rows) === 1,
  "zero variance": (rows) => flat(rows),
  "wrong to right": (rows, first, last) => first < 0.5 && last >= 0.5,
  "right to wrong": (rows, first, last) => last < 0.5 && first >= 0.5,
  "cut off": (rows) => rows.some((row) => row[6]),
  "fixed": (rows, first, last) => first < 0.5 && last >= 0.5,
  "broken": (rows, first, last) => last < 0.5 && first >= 0.5,
  "still wrong": (rows, first, last) => Math.max(first, last) < 0.5,
  "still right": (rows, first, last) => Math.min(first, last) >= 0.5,
};
const orders = {
  "sampled": () => 0,
  "spread": (rows) => -spreadOf(rows.map(paidFor)),
  "advantage": (rows) => -Math.max(...rows.map((row) => Math.abs(row[4] ?? 0))),
  "longest": (rows) => -Math.max(...rows.map((row) => row[5] ?? 0)),
  "shortest": (rows) => Math.min(...rows.map((row) => row[5] ?? 0)),
  "best paid": (rows) => -meanOf(rows.map(paidFor)),
  "worst paid": (rows) => meanOf(rows.map(paidFor)),
};

function findGroups(state, marks = new Map()) {
  const groups = data.groups[state.role], wanted = folded(state.text.trim());
  const found = [];
  groups.forEach((group, number) => {
    const rows = rowsOf(group), problem = data.problems[group[2]];
    if (state.step !== "" && group[1] !== Number(state.step)) return;
    if (state.pid && problem[0] !== state.pid) return;
    if (state.kind && problem[1] !== state.kind) return;
    if (!matches[state.show](rows, ...firstAndLast(state.role, group))) return;
    if (state.error && !rows.some((row) => row[8] === state.error)) return;
    if (state.marked && !rows.some((_, place) => marks.has(`${state.role}/${group[0]}/${place}`))) return;
    if (wanted && !([problem[0], problem[2], problem[4]].some((text) => folded(text).includes(wanted)) || rows.some((row) => folded(row[0]).includes(wanted) || folded(row[1]).includes(wanted)))) return;
    found.push(number);
  });
  if (state.order === "sampled") return found;
  const keys = new Map(found.map((number) => [number, Math.round(1000 * orders[state.order](rowsOf(groups[number]))) / 1000]));
  return found.sort((a, b) => keys.get(a) - keys.get(b) || a - b);
}

class PageSource {
  constructor() {
    this.info = data.info;
    this.marks = new Map(Object.entries(data.marks));
    try { for (const [key, note] of Object.entries(JSON.parse(localStorage.getItem(this.store) || "{}"))) if (note === null) this.marks.delete(key); else this.marks.set(key, note); } catch { /* no storage here: marks last as long as the page */ }
  }

  get store() { return "nbhelpers marks " + data.info.run + " " + data.info.created; }

  async find(state, key, step) {
    const numbers = findGroups(state, this.marks), groups = data.groups[state.role];
    let place = key === undefined ? -1 : numbers.findIndex((number) => `${state.role}/${groups[number][0]}` === key);
    if (place < 0 && step !== undefined && step !== null) place = numbers.findIndex((number) => groups[number][1] >= step);
    return { numbers, place: Math.max(place, 0) };
  }

  async groups(role, numbers) {
    return numbers.map((number) => {
      const [name, step, at, rows] = data.groups[role][number], problem = data.problems[at];
      return { key: `${role}/${name}`, step: role === "rollout" ? step : null, problem, picture: data.images[problem.at(-1)], visits: visitsOf[role][at].length, rows };
    });
  }

  async keep(key, note) {
    try {
      const own = JSON.parse(localStorage.getItem(this.store) || "{}");
      own[key] = note;
      localStorage.setItem(this.store, JSON.stringify(own));
    } catch { /* as above */ }
  }
}

const browser = new Browser(document.getElementById("browser"), new PageSource(), { perPage: 5, address: true });
