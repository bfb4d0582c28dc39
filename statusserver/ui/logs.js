// The last lines of a container's log, followed.
import {h} from './dom.js';

const KEEP = 200_000; // characters

export class LogView {
  constructor(key, container) {
    this.container = container;
    this.abort = new AbortController();
    this.pre = h('pre', {tabindex: 0, 'aria-label': 'Log of ' + container});
    this.state = h('span', {class: 'soft'}, 'reading');
    this.root = h('section', {class: 'log'}, h('p', null, h('strong', null, 'Log of ' + container + ' '), this.state), this.pre);
    this.read('/containerLogs/' + [...key.split('/'), container].map(encodeURIComponent).join('/') + '?follow=true&tailLines=200');
  }

  async read(path) {
    try {
      const response = await fetch(path, {signal: this.abort.signal, cache: 'no-store'});
      if (!response.ok) throw new Error((await response.text()).trim());
      this.state.textContent = 'following';
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const {done, value} = await reader.read();
        if (done) break;
        this.add(value);
      }
      this.state.textContent = 'ended';
    } catch (e) {
      if (e.name !== 'AbortError') this.state.textContent = e.message;
    }
  }

  add(text) {
    const atEnd = this.pre.scrollTop + this.pre.clientHeight >= this.pre.scrollHeight - 8;
    this.pre.append(text);
    if (this.pre.childNodes.length > 500 || this.pre.textContent.length > KEEP) {
      this.pre.textContent = this.pre.textContent.slice(-KEEP / 2);
    }
    if (atEnd) this.pre.scrollTop = this.pre.scrollHeight;
  }

  stop() { this.abort.abort(); }
}
