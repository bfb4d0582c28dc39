// Who burdens the node now: the heaviest first, each with its curves.
import {h, put, cores, bytes} from './dom.js';
import {Series, Spark} from './charts.js';

// MOST rows are shown; the whole list is at /burden.
const MOST = 12;

export class Burden {
  constructor(root, body, node) {
    Object.assign(this, {root, body, node, rows: new Map()});
  }
  draw(report) {
    const time = Date.parse(report.time);
    const list = report.burdens || [];
    const next = new Map();
    for (const one of list) {
      const row = this.rows.get(one.cgroup) || newRow();
      next.set(one.cgroup, row);
      row.cpu.add(time, one.used.cpu);
      row.memory.add(time, one.used.memory);
    }
    this.rows = next;
    const shown = list.slice(0, MOST);
    for (const one of shown) {
      const row = next.get(one.cgroup);
      put(row.name, one.name);
      put(row.share, (100 * one.share).toFixed(1) + ' %');
      row.cpuSpark.draw(row.cpu, cores, 0.01);
      row.memorySpark.draw(row.memory, bytes, 1 << 20);
      put(row.remarks, (one.reasons || []).join('; '));
    }
    const order = shown.map((one) => next.get(one.cgroup).tr);
    if (order.length !== this.body.children.length || order.some((tr, i) => this.body.children[i] !== tr)) this.body.replaceChildren(...order);
    const part = (name, used, of, format) => (used === undefined || of === undefined ? '' : `${name} ${format(used)} of ${format(of)}`);
    const {used = {}, allocatable = {}} = report;
    put(this.node, [part('CPU', used.cpu, allocatable.cpu, cores), part('memory', used.memory, allocatable.memory, bytes)].filter(Boolean).join(', '));
  }
}

function newRow() {
  const name = h('td', {class: 'first'});
  const share = h('td', {class: 'num'});
  const remarks = h('td', {class: 'wide'});
  const cpuSpark = new Spark('cpu');
  const memorySpark = new Spark('memory');
  const tr = h('tr', null, name, share, h('td', {class: 'use always'}, cpuSpark.root), h('td', {class: 'use always'}, memorySpark.root), remarks);
  return {tr, name, share, remarks, cpuSpark, memorySpark, cpu: new Series(), memory: new Series()};
}
