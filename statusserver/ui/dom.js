// Small helpers. Nothing here or elsewhere makes HTML of text.

// h makes an element: h('p', {class: 'x', onclick: f}, 'text', child).
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

// s makes an SVG element.
export function s(tag, props, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((c) => c !== undefined && c !== null && c !== false && c !== ''));
  return element;
}

// put sets text only when it differs, so that selections and screen readers
// are left alone.
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let skew = 0; // of this clock against the node's, in ms

export function setNow(text) {
  const t = Date.parse(text);
  if (!isNaN(t)) skew = Date.now() - t;
}

export const now = () => Date.now() - skew;

// span says a number of ms as a person would: 3s, 5m12s, 4h, 9d.
export function span(ms) {
  if (!isFinite(ms)) return '';
  const sec = Math.max(0, Math.floor(ms / 1000));
  if (sec < 120) return sec + 's';
  const min = Math.floor(sec / 60);
  if (min < 10) return min + 'm' + (sec % 60 ? (sec % 60) + 's' : '');
  if (min < 120) return min + 'm';
  const hours = Math.floor(min / 60);
  return hours < 48 ? hours + 'h' : Math.floor(hours / 24) + 'd';
}

export const age = (text) => (text ? span(now() - Date.parse(text)) : '');

// clock gives the time of day, with milliseconds where decisions need them.
export function clock(text) {
  const d = new Date(text);
  if (isNaN(d)) return String(text || '');
  const two = (n) => String(n).padStart(2, '0');
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, '0')}`;
}

export function cores(v) {
  if (v === undefined || v === null) return '–';
  if (v < 0.001) return '0 m';
  return v < 1 ? Math.round(v * 1000) + ' m' : v.toFixed(2);
}

export function bytes(v) {
  if (v === undefined || v === null) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  while (v >= 1024 && i < units.length - 1) { v /= 1024; i++; }
  return (i === 0 || v >= 100 ? Math.round(v) : v.toFixed(1)) + ' ' + units[i];
}

// ask gets JSON, or throws what the server says.
export async function ask(path, signal) {
  const response = await fetch(path, {headers: {Accept: 'application/json'}, signal, cache: 'no-store'});
  const text = await response.text();
  if (!response.ok) throw new Error(text.trim() || response.statusText);
  return JSON.parse(text);
}
