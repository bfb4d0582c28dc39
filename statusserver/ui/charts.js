// Curves over the last minutes, as SVG that takes its colours from the style.
import {h, s, put, span} from './dom.js';

// KEEP is how many samples a curve holds: five minutes at one a second.
const KEEP = 300;
// LEAST is the shortest time that a curve spans, in ms: a new page has little.
const LEAST = 30e3;

// Series is a ring of [time in ms, value].
export class Series {
  constructor() { this.points = []; }
  add(time, value) {
    if (value === undefined || value === null) return;
    this.points.push([time, value]);
    if (this.points.length > KEEP) this.points.shift();
  }
  get last() { return this.points.length ? this.points[this.points.length - 1][1] : undefined; }
  get length() { return this.points.length ? Math.min(KEEP * 1e3, Math.max(LEAST, this.points[this.points.length - 1][0] - this.points[0][0])) : LEAST; }
  get max() { return this.points.reduce((m, p) => Math.max(m, p[1]), 0); }
}

// path draws points into a box; time runs to the right edge.
function path(points, end, width, height, length, max, area) {
  if (points.length < 2) return '';
  const x = (t) => (width * (1 - (end - t) / length)).toFixed(1);
  const y = (v) => (height - (height - 2) * (v / max)).toFixed(1);
  let d = '';
  for (const [t, v] of points) d += `${d ? 'L' : 'M'}${x(t)} ${y(v)}`;
  if (area) d += `L${x(points[points.length - 1][0])} ${height}L${x(points[0][0])} ${height}Z`;
  return d;
}

// Spark is a curve the size of a word.
export class Spark {
  constructor(kind) {
    this.line = s('path', {class: 'line'});
    this.area = s('path', {class: 'area'});
    this.value = h('span', {class: 'value'}, '–');
    this.root = h('div', {class: 'spark ' + kind},
      s('svg', {viewBox: '0 0 72 22', width: 72, height: 22, 'aria-hidden': 'true', preserveAspectRatio: 'none'}, this.area, this.line), this.value);
  }
  draw(series, format, floor) {
    put(this.value, format(series.last));
    const points = series.points.slice(-90);
    if (!points.length) return;
    const max = Math.max(floor, points.reduce((m, p) => Math.max(m, p[1]), 0) * 1.1);
    const end = points[points.length - 1][0];
    const length = Math.min(90e3, series.length);
    this.line.setAttribute('d', path(points, end, 72, 22, length, max, false));
    this.area.setAttribute('d', path(points, end, 72, 22, length, max, true));
  }
}

// nice rounds up to 1, 2 or 5 times a power of the base.
function nice(v, base) {
  let unit = 1;
  if (base === 1024) while (unit * 1024 <= v) unit *= 1024;
  else unit = Math.pow(10, Math.floor(Math.log10(v)));
  for (const m of base === 1024 ? [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] : [1, 1.5, 2, 3, 4, 5, 6, 8, 10]) if (m * unit >= v) return m * unit;
  return v;
}

// Chart is a curve with a scale, and its value under the pointer.
export class Chart {
  constructor(title, kind, format, base, floor) {
    Object.assign(this, {format, base, floor, width: 600, height: 96, max: floor, length: LEAST, points: [], end: 0});
    this.line = s('path', {class: 'line'});
    this.area = s('path', {class: 'area'});
    this.cross = s('line', {class: 'cross', y1: 0, y2: this.height, visibility: 'hidden'});
    this.value = h('strong', null, '–');
    this.when = h('span', {class: 'when'});
    this.begin = h('span');
    this.top = h('span', {class: 'scale top'});
    this.mid = h('span', {class: 'scale mid'});
    this.svg = s('svg', {viewBox: `0 0 ${this.width} ${this.height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': title},
      s('line', {class: 'grid', x1: 0, x2: this.width, y1: 2, y2: 2}),
      s('line', {class: 'grid', x1: 0, x2: this.width, y1: this.height / 2 + 1, y2: this.height / 2 + 1}),
      this.area, this.line, this.cross);
    this.root = h('figure', {class: 'chart ' + kind},
      h('figcaption', null, h('span', {class: 'name'}, title), this.when, this.value),
      h('div', {class: 'plot'}, this.svg, this.top, this.mid),
      h('div', {class: 'axis', 'aria-hidden': 'true'}, this.begin, h('span', null, 'now')));
    this.svg.addEventListener('pointermove', (e) => this.point(e));
    this.svg.addEventListener('pointerleave', () => { this.over = undefined; this.show(); });
  }
  draw(series) {
    this.points = series.points;
    if (!this.points.length) return;
    this.end = this.points[this.points.length - 1][0];
    this.length = series.length;
    put(this.begin, '−' + span(this.length));
    this.max = nice(Math.max(this.floor, series.max * 1.05), this.base);
    this.line.setAttribute('d', path(this.points, this.end, this.width, this.height, this.length, this.max, false));
    this.area.setAttribute('d', path(this.points, this.end, this.width, this.height, this.length, this.max, true));
    put(this.top, this.format(this.max));
    put(this.mid, this.format(this.max / 2));
    this.show();
  }
  point(e) {
    const box = this.svg.getBoundingClientRect();
    this.over = (e.clientX - box.left) / box.width;
    this.show();
  }
  show() {
    if (!this.points.length) return;
    let at = this.points[this.points.length - 1];
    if (this.over !== undefined) {
      const t = this.end - (1 - this.over) * this.length;
      at = this.points.reduce((a, b) => (Math.abs(b[0] - t) < Math.abs(a[0] - t) ? b : a));
      const x = this.width * (1 - (this.end - at[0]) / this.length);
      this.cross.setAttribute('x1', x);
      this.cross.setAttribute('x2', x);
    }
    this.cross.setAttribute('visibility', this.over === undefined ? 'hidden' : 'visible');
    put(this.when, this.over === undefined ? '' : '−' + Math.round((this.end - at[0]) / 1000) + ' s');
    put(this.value, this.format(at[1]));
  }
}
