// A swimlane for the pod and each of its containers: one mark per decision, in
// order. Gaps are drawn by their logarithm, so that a burst of decisions in a
// millisecond and a wait of an hour both fit.
import {h, s, span, clock} from './dom.js';

const LANE = 26;

export function drawLanes(root, records, choose) {
  if (!records.length) { root.replaceChildren(); return; }
  const names = [...new Set(records.map((r) => r.container || ''))].sort();
  const height = names.length * LANE + 22;
  let x = 14;
  let before;
  const marks = [];
  const gaps = [];
  records.forEach((r, i) => {
    const time = Date.parse(r.time);
    if (before !== undefined && !isNaN(time)) {
      const gap = Math.max(0, time - before);
      const step = Math.min(70, 13 + 7 * Math.log2(1 + gap / 250));
      if (gap >= 1000) gaps.push(s('text', {x: x + step / 2, y: height - 6, class: 'gap'}, span(gap)));
      x += step;
    } else if (i) {
      x += 14;
    }
    if (!isNaN(time)) before = time;
    const y = names.indexOf(r.container || '') * LANE + LANE / 2 + 1;
    const label = [clock(r.time), r.container, r.action || r.rule, r.reason, r.error || r.result].filter(Boolean).join(' · ');
    marks.push(s('circle', {cx: x, cy: y, r: 5.5, class: 'mark ' + kindOf(r), onclick: () => choose(i)}, s('title', null, label)));
  });
  const width = x + 20;
  const lines = names.map((name, i) => s('line', {class: 'lane', x1: 0, x2: '100%', y1: i * LANE + LANE / 2 + 1, y2: i * LANE + LANE / 2 + 1}));
  const labels = names.map((name) => h('span', {title: name || 'pod'}, name || 'pod'));
  const old = root.querySelector('.track');
  const atEnd = !old || old.scrollLeft + old.clientWidth >= old.scrollWidth - 4;
  const track = h('div', {class: 'track', tabindex: 0, role: 'group', 'aria-label': 'Decisions over time'},
    s('svg', {width, height, role: 'img', 'aria-label': records.length + ' decisions over time; the list below has them as text'}, lines, gaps, marks));
  root.replaceChildren(h('div', {class: 'lanebox'}, h('div', {class: 'who', 'aria-hidden': 'true'}, labels), track),
    h('p', {class: 'legend', 'aria-hidden': 'true'}, ...[['act', 'action'], ['still', 'no action'], ['bad', 'error']].map(([kind, text]) =>
      h('span', {class: kind}, text))));
  track.scrollLeft = atEnd ? track.scrollWidth : old.scrollLeft;
}

function kindOf(r) {
  if (r.error || /fail|unhealthy|crash/i.test(r.result || '')) return 'bad';
  return !r.action || /^(none|wait|nothing|keep)/i.test(r.action) ? 'still' : 'act';
}
