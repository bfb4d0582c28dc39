// The packet explainer: a question to /proxy/trace and its answer.
import {h, ask} from './dom.js';

export function setUpTrace(form, answer) {
  let abort;
  form.addEventListener('submit', async (e) => {
    e.preventDefault();
    if (abort) abort.abort();
    abort = new AbortController();
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value.trim()) query.set(name, value.trim());
    try {
      answer.replaceChildren(...show(await ask('/proxy/trace?' + query, abort.signal) || {}));
    } catch (error) {
      if (error.name !== 'AbortError') answer.replaceChildren(h('p', {class: 'problem'}, error.message));
    }
  });
}

// The names of two shapes are understood: rules or steps, address and port or
// addr, pod or target.
function show(t) {
  const packet = t.packet || t;
  const rules = [t.rules, t.steps].find(Array.isArray) || [];
  const backends = Array.isArray(t.backends) ? t.backends : [];
  const bad = /drop|reject|refuse|no endpoint/i.test(t.verdict || '');
  const parts = [];
  parts.push(h('p', {class: 'path'},
    h('code', null, packet.from || 'this node'), h('span', {'aria-label': 'to'}, ' → '), h('code', null, packet.to || '?'),
    packet.protocol ? h('span', {class: 'kind'}, packet.protocol) : null,
    t.verdict ? h('strong', {class: 'verdict', 'data-tone': bad ? 'bad' : t.verdict === 'pass' ? 'done' : 'good'}, t.verdict) : null,
    t.service ? h('span', {class: 'soft'}, ' Service ' + t.service + (t.portName ? ', port ' + t.portName : '')) : null));
  if (rules.length) {
    parts.push(h('h3', null, 'Rules, in order'), h('ol', {class: 'rules'}, rules.map((r) => h('li', null,
      r.chain ? h('span', {class: 'kind'}, r.chain) : null, r.rule ? h('code', null, r.rule) : null,
      r.note || r.text ? h('p', {class: 'soft'}, r.note || r.text) : null))));
  }
  if (backends.length) {
    parts.push(h('h3', null, 'Back-ends'), h('ul', {class: 'backends'}, backends.map((b) => h('li', null,
      h('code', null, address(b)),
      h('span', {class: 'soft'}, [b.pod || b.target, b.masquerade ? 'sees the address of the node' : '', b.terminating ? 'terminating' : ''].filter(Boolean).join(', ')),
      meter(b.odds)))));
  }
  if (t.text) parts.push(h('details', null, h('summary', null, 'As text'), h('pre', {tabindex: 0}, t.text)));
  return parts;
}

function address(b) {
  const host = b.addr || b.address || '?';
  return (host.includes(':') && !b.addr && !host.startsWith('[') ? `[${host}]` : host) + (b.port ? ':' + b.port : '');
}

function meter(odds) {
  if (typeof odds !== 'number' || isNaN(odds)) return null;
  const percent = (odds * 100).toFixed(odds * 100 % 1 ? 1 : 0) + ' %';
  const bar = h('span', {class: 'fill'});
  bar.style.width = Math.min(100, Math.max(0, odds * 100)) + '%';
  return h('span', {class: 'odds', role: 'img', 'aria-label': percent}, h('span', {class: 'track'}, bar), percent);
}
