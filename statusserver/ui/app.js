// The page: a stream of events in, a table and curves out.
import {h, put, setNow, age, cores, bytes} from './dom.js';
import {Series, Spark, Chart} from './charts.js';
import {Detail} from './detail.js';
import {tone} from './tone.js';
import {Burden} from './burden.js';
import {setUpTrace} from './trace.js';

const $ = (id) => document.getElementById(id);
const CPU_FLOOR = 0.01;
const MEMORY_FLOOR = 1 << 20;

let about = {};
let pods = [];
let shown = new Map(); // key -> {tr, cells, cpu, memory}
const use = new Map(); // key -> {cpu: Series, memory: Series}
const nodeUse = {cpu: new Series(), memory: new Series()};
const nodeCPU = new Chart('Node CPU, cores', 'cpu', cores, 10, 0.1);
const nodeMemory = new Chart('Node memory', 'memory', bytes, 1024, 1 << 26);
$('node-use').append(nodeCPU.root, nodeMemory.root);

const detail = new Detail($('detail'), () => select(''));
let selected = '';
const burden = new Burden($('burden'), $('burdens'), $('burden-node'));

const keyOf = (p) => p.namespace + '/' + p.name;

function usageOf(key) {
  if (!use.has(key)) use.set(key, {cpu: new Series(), memory: new Series()});
  return use.get(key);
}

// ---- events

function connect() {
  const source = new EventSource('events');
  const on = (name, handle) => source.addEventListener(name, (e) => { link('live'); handle(JSON.parse(e.data)); });
  on('about', (a) => {
    about = a;
    setNow(a.now);
    put($('node'), a.node || 'this node');
    document.title = (a.node ? a.node + ' · ' : '') + 'nodekit';
    $('trace').hidden = !a.trace;
    $('node-use').hidden = !a.stats;
    $('burden').hidden = !a.burden;
    $('pods').hidden = a.burden && !a.pods; // a monitor without pods has something better to show
    document.body.classList.toggle('no-stats', !a.stats);
    detail.about(a);
    render();
  });
  on('pods', (rows) => { pods = rows; render(); });
  on('stats', sample);
  on('burden', (report) => burden.draw(report));
  on('problems', problems);
  on('tick', () => {});
  source.onerror = () => link(source.readyState === EventSource.CLOSED ? 'dead' : 'lost');
  // A refusal (too many streams, not allowed) closes the source for good.
  setInterval(() => {
    if (source.readyState === EventSource.CLOSED && !connect.again) {
      connect.again = setTimeout(() => { connect.again = 0; connect(); }, 5000);
    }
  }, 1000);
}

function link(state) {
  const text = {live: 'live', lost: 'connection lost, trying again', dead: 'refused, trying again', wait: 'connecting'}[state];
  $('link').dataset.state = state;
  put($('link'), text);
  document.body.classList.toggle('stale', state === 'lost' || state === 'dead');
}

function problems(list) {
  const names = {pods: 'The pods cannot be read', stats: 'Usage cannot be read', burden: 'Who burdens the node cannot be told'};
  $('problems').replaceChildren(...Object.entries(list).map(([what, text]) =>
    h('p', {class: 'problem'}, h('strong', null, (names[what] || what) + ': '), text)));
}

function sample(stats) {
  setNow(stats.time);
  const time = Date.parse(stats.time);
  nodeUse.cpu.add(time, stats.node.cpu);
  nodeUse.memory.add(time, stats.node.memory);
  const seen = new Set();
  for (const pod of stats.pods) {
    const u = usageOf(keyOf(pod));
    seen.add(keyOf(pod));
    u.cpu.add(time, pod.cpu);
    u.memory.add(time, pod.memory);
  }
  for (const key of use.keys()) if (!seen.has(key) && !shown.has(key)) use.delete(key);
  drawUse();
}

function drawUse() {
  nodeCPU.draw(nodeUse.cpu);
  nodeMemory.draw(nodeUse.memory);
  for (const [key, row] of shown) {
    const u = usageOf(key);
    row.cpu.draw(u.cpu, cores, CPU_FLOOR);
    row.memory.draw(u.memory, bytes, MEMORY_FLOOR);
  }
  if (selected) detail.use(usageOf(selected));
}

// ---- the table

function newRow(pod) {
  const cell = (kind) => h('td', kind ? {class: kind} : null);
  const cells = {ready: cell('num'), restarts: cell('num more'), ip: cell('wide mono'), age: cell('num wide')};
  const name = h('button', {type: 'button', class: 'name', 'aria-controls': 'detail'},
    h('span', {class: 'ns'}, pod.namespace + '/'), pod.name);
  const status = h('span', {class: 'status'});
  const cpu = new Spark('cpu');
  const memory = new Spark('memory');
  const tr = h('tr', {onclick: () => select(keyOf(pod), true)},
    h('td', {class: 'first'}, name), h('td', null, status), cells.ready, cells.restarts, cells.ip, cells.age,
    h('td', {class: 'use'}, cpu.root), h('td', {class: 'use'}, memory.root));
  return {tr, name, status, cells, cpu, memory};
}

function render() {
  const words = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (p) => words.every((w) => [keyOf(p), p.reason, p.phase, p.ip].join(' ').toLowerCase().includes(w));
  const next = new Map();
  for (const pod of pods.filter(matches)) {
    const key = keyOf(pod);
    const row = shown.get(key) || newRow(pod);
    next.set(key, row);
    row.pod = pod;
    put(row.status, pod.reason || pod.phase);
    row.status.dataset.tone = tone(pod);
    row.status.title = pod.message || pod.phase;
    put(row.cells.ready, pod.ready + '/' + pod.total);
    put(row.cells.restarts, String(pod.restarts));
    put(row.cells.ip, pod.ip || '–');
    row.tr.classList.toggle('selected', key === selected);
    row.name.setAttribute('aria-expanded', String(key === selected));
  }
  const body = $('rows');
  const order = [...next.values()].map((r) => r.tr);
  if (order.length !== body.children.length || order.some((tr, i) => body.children[i] !== tr)) {
    const focus = document.activeElement;
    body.replaceChildren(...order);
    if (focus && body.contains(focus)) focus.focus();
  }
  shown = next;
  const none = $('no-pods');
  none.hidden = order.length > 0;
  put(none, about.pods === false ? 'This agent does not show its pods.'
    : pods.length ? 'No pod matches the filter.'
      : about.node === undefined ? 'Waiting for the node.' : 'No pods on this node yet.');
  facts();
  ages();
  drawUse();
  $('addresses').replaceChildren(...pods.filter((p) => p.ip).map((p) => h('option', {value: p.ip}, keyOf(p))));
  if (selected) detail.pod(pods.find((p) => keyOf(p) === selected));
}

function facts() {
  const count = (f) => pods.filter(f).length;
  const bad = count((p) => tone(p) === 'bad');
  const list = about.pods ? [['pods', pods.length], ['ready', count((p) => p.healthy && p.phase === 'Running')],
    ['restarts', pods.reduce((n, p) => n + p.restarts, 0)], bad ? ['in trouble', bad] : null].filter(Boolean) : [];
  $('facts').replaceChildren(...list.map(([name, n]) =>
    h('div', {class: name === 'in trouble' ? 'bad' : null}, h('dt', null, name), h('dd', null, String(n)))));
}

function ages() {
  for (const row of shown.values()) put(row.cells.age, age(row.pod.start) || '–');
  detail.tick();
}

// ---- choosing

function select(key, focus) {
  const before = selected;
  selected = key;
  const hash = key ? '#pod/' + key : ' ';
  if (location.hash !== hash.trim()) history.replaceState(null, '', key ? hash : location.pathname);
  document.body.classList.toggle('open', Boolean(key));
  detail.open(key, pods.find((p) => keyOf(p) === key));
  render();
  if (key && focus) $('detail').focus({preventScroll: false});
  if (!key && before && shown.has(before)) shown.get(before).name.focus();
}

function fromHash() {
  const match = /^#pod\/([^/]+\/[^/]+)$/.exec(location.hash);
  if (match && match[1] !== selected) select(match[1]);
}

function move(step) {
  const names = [...shown.values()].map((r) => r.name);
  if (!names.length) return;
  const at = names.indexOf(document.activeElement);
  const from = at >= 0 ? at : [...shown.keys()].indexOf(selected);
  names[Math.min(names.length - 1, Math.max(0, from + step))].focus();
}

document.addEventListener('keydown', (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const typing = e.target.matches('input, select, textarea');
  if (e.key === 'Escape') {
    if (e.target === $('filter') && $('filter').value) { $('filter').value = ''; render(); }
    else if (selected) select('');
    else e.target.blur();
  } else if (typing && !(e.target === $('filter') && e.key === 'ArrowDown')) {
    return;
  } else if (e.key === '/') {
    $('filter').focus();
    $('filter').select();
    e.preventDefault();
  } else if ((e.key === 'ArrowDown' || e.key === 'ArrowUp') && (typing || e.target === document.body || $('pods').contains(e.target))) {
    move(e.key === 'ArrowDown' ? 1 : -1);
    e.preventDefault();
  }
});

$('filter').addEventListener('input', render);
window.addEventListener('hashchange', fromHash);

// ---- light and dark

const themes = {'': 'light', light: 'dark', dark: ''};
function theme(name) {
  document.documentElement.dataset.theme = name;
  $('theme').title = {'': 'Light or dark: as the system', light: 'Light', dark: 'Dark'}[name];
}
function stored(set) {
  try {
    if (set === undefined) return localStorage.getItem('theme') || '';
    localStorage.setItem('theme', set);
  } catch { /* storage is off: the choice lasts as long as the page */ }
  return set || '';
}
$('theme').addEventListener('click', () => theme(stored(themes[document.documentElement.dataset.theme || ''])));
theme(stored());

setUpTrace($('trace-form'), $('trace-answer'));
setInterval(ages, 1000);
fromHash();
connect();
