// The side of the page that explains one pod.
import {h, put, ask, age, span, now, clock, cores, bytes} from './dom.js';
import {Chart} from './charts.js';
import {drawLanes} from './lanes.js';
import {tone} from './tone.js';
import {LogView} from './logs.js';

export class Detail {
  constructor(root, close) {
    this.root = root;
    this.close = close;
    this.key = '';
    this.has = {};
  }

  about(a) { this.has = a; if (this.key) this.open(this.key, this.row); }

  open(key, row) {
    if (this.logs) this.logs.stop();
    clearTimeout(this.timer);
    if (this.abort) this.abort.abort();
    this.key = key;
    this.row = row;
    this.root.hidden = !key;
    this.why = undefined;
    this.logs = undefined;
    if (!key) { this.root.replaceChildren(); return; }
    const [ns, name] = key.split('/');
    this.status = h('span', {class: 'status'});
    this.line = h('p', {class: 'line'});
    this.answer = h('div', {class: 'why'});
    this.boxes = h('div', {class: 'boxes'});
    this.lanes = h('div', {class: 'lanes'});
    this.records = h('ol', {class: 'records', reversed: true});
    this.decisions = h('section', {class: 'decisions', hidden: true},
      h('h3', null, 'Decisions'), this.lanes, this.records);
    this.cpu = new Chart('CPU, cores', 'cpu', cores, 10, 0.01);
    this.memory = new Chart('Memory', 'memory', bytes, 1024, 1 << 20);
    this.logBox = h('div', {class: 'logs'});
    this.root.replaceChildren(
      h('div', {class: 'bar'},
        h('h2', null, h('span', {class: 'ns'}, ns + '/'), name), this.status,
        h('button', {type: 'button', class: 'close', title: 'Close (Esc)', onclick: this.close}, '✕', h('span', {class: 'hidden'}, 'Close'))),
      this.line, this.answer,
      h('h3', null, 'Containers'), this.boxes, this.logBox,
      this.has.stats ? h('div', {class: 'curves'}, this.cpu.root, this.memory.root) : null,
      this.decisions);
    this.pod(row);
    this.refresh();
  }

  // pod shows what the table knows as well.
  pod(row) {
    if (!this.key) return;
    const gone = this.row && !row;
    const changed = JSON.stringify(row) !== this.drawn;
    this.drawn = JSON.stringify(row);
    this.row = row;
    if (!row) {
      put(this.status, gone ? 'gone' : 'not here');
      this.status.dataset.tone = 'done';
      return;
    }
    put(this.status, row.reason || row.phase);
    this.status.dataset.tone = tone(row);
    if (changed || !this.boxes.children.length) this.boxes.replaceChildren(...row.containers.map((c) => this.box(c)));
    this.tick();
  }

  box(c) {
    const state = c.state + (c.reason ? ': ' + c.reason : '') + (c.exitCode !== undefined ? ` (exit code ${c.exitCode})` : '');
    const kind = c.state === 'running' ? (c.ready || c.kind === 'init' ? 'good' : 'wait')
      : c.state === 'terminated' ? (c.exitCode === 0 ? 'done' : 'bad') : /BackOff|Err/.test(c.reason || '') ? 'bad' : 'wait';
    return h('article', {class: 'box'},
      h('div', {class: 'head'}, h('h4', null, c.name), c.kind !== 'app' ? h('span', {class: 'kind'}, c.kind) : null,
        this.has.logs ? h('button', {type: 'button', class: 'small', onclick: () => this.showLogs(c.name)}, 'Logs') : null),
      h('p', null, h('span', {class: 'status', 'data-tone': kind}, state),
        c.since ? h('span', {class: 'soft since', 'data-since': c.since, 'data-ended': c.state === 'terminated'}, '') : null),
      c.message ? h('p', {class: 'message'}, c.message) : null,
      h('p', {class: 'soft'}, c.image, c.restarts ? ` · restarted ${c.restarts}×` : null),
      c.last ? h('p', {class: 'soft'}, 'before: ' + c.last) : null);
  }

  showLogs(container) {
    if (this.logs) this.logs.stop();
    if (this.logs && this.logs.container === container) {
      this.logs = undefined;
      this.logBox.replaceChildren();
      return;
    }
    this.logs = new LogView(this.key, container);
    this.logBox.replaceChildren(this.logs.root);
  }

  use(u) {
    if (!this.key) return;
    this.cpu.draw(u.cpu);
    this.memory.draw(u.memory);
  }

  tick() {
    if (!this.key) return;
    for (const el of this.root.querySelectorAll('[data-since]')) put(el, el.dataset.ended !== undefined ? age(el.dataset.since) + ' ago' : 'for ' + age(el.dataset.since));
    const until = this.root.querySelector('[data-until]');
    if (until) {
      const left = Date.parse(until.dataset.until) - now();
      put(until, left > 0 ? ' in ' + span(left + 999) : ' due');
    }
    const row = this.row;
    if (row) {
      put(this.line, [row.ip, `${row.ready}/${row.total} ready`, row.restarts ? `${row.restarts} restarts` : '', row.start ? 'started ' + age(row.start) + ' ago' : '']
        .filter(Boolean).join(' · '));
    }
  }

  // refresh asks why, and again while the pod is open.
  async refresh() {
    if (!this.has.why || !this.key) return;
    const key = this.key;
    this.abort = new AbortController();
    try {
      const why = await ask('/why/' + key.split('/').map(encodeURIComponent).join('/'), this.abort.signal);
      if (key !== this.key) return;
      const text = JSON.stringify(why);
      if (text !== this.why) { this.why = text; this.explain(why || {}); }
    } catch (e) {
      if (e.name === 'AbortError' || key !== this.key) return;
      this.why = undefined;
      this.answer.replaceChildren(h('p', {class: 'problem'}, h('strong', null, 'No explanation: '), e.message));
    }
    this.timer = setTimeout(() => this.refresh(), document.hidden ? 5000 : 1500);
  }

  explain(why) {
    const mood = this.row ? tone(this.row) : why.ready === true ? 'good' : 'wait';
    const problems = Array.isArray(why.problems) ? why.problems : [];
    const next = why.next && (why.next.action || why.next.at || why.next.reason) ? why.next : undefined;
    this.answer.replaceChildren(
      why.summary ? h('p', {class: 'summary', 'data-tone': mood}, why.summary) : '',
      ...problems.map((text) => h('p', {class: 'problem'}, String(text))),
      next ? h('p', {class: 'next'}, h('strong', null, 'Next: '), next.action || 'wait',
        next.at && Date.parse(next.at) > 0 ? h('span', {'data-until': next.at}) : null, next.reason ? h('span', {class: 'soft'}, ' – ' + next.reason) : null) : '');
    const records = Array.isArray(why.records) ? why.records : [];
    this.decisions.hidden = !records.length;
    drawLanes(this.lanes, records, (i) => this.point(i));
    this.records.replaceChildren(...records.map(record).reverse());
    this.tick();
  }

  // point shows the record that was chosen in the lanes.
  point(index) {
    const items = this.records.children;
    const item = items[items.length - 1 - index];
    for (const other of items) other.classList.toggle('pointed', other === item);
    if (item) item.scrollIntoView({block: 'nearest', behavior: 'smooth'});
  }
}

// took says a duration that Go wrote: a number of nanoseconds.
function took(ns) {
  if (typeof ns !== 'number' || !(ns > 0)) return '';
  return ns < 1e9 ? (ns / 1e6).toFixed(ns < 1e7 ? 1 : 0) + ' ms' : (ns / 1e9).toFixed(1) + ' s';
}

function record(r) {
  const acts = r.action && !/^none$/i.test(r.action);
  return h('li', {class: r.error ? 'bad' : null},
    h('time', {datetime: r.time || null}, clock(r.time)),
    h('div', null,
      h('p', null, h('strong', null, acts ? r.action : r.rule || 'noted'), r.container ? h('span', {class: 'kind'}, r.container) : null,
        r.result || r.took ? h('span', {class: 'result'}, [r.result, took(r.took)].filter(Boolean).join(' in ')) : null,
        r.count > 1 ? h('span', {class: 'result'}, `${r.count} times` + (r.last ? ', last at ' + clock(r.last) : '')) : null),
      r.reason ? h('p', null, r.reason) : null,
      r.error ? h('p', {class: 'error'}, r.error) : null,
      r.rule || r.input ? h('p', {class: 'soft'}, [r.rule && acts ? 'rule ' + r.rule : '', r.input ? 'saw ' + r.input : ''].filter(Boolean).join(' · ')) : null));
}
