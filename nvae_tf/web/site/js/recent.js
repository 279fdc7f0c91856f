/** A map that forgets what was not used for longest, once it holds too much. */
export class Recent {
  /** @param {number} most bytes; the newest value is kept in any case. */
  constructor(most) {
    this.most = most;
    this.bytes = 0;
    this.kept = new Map();
  }

  has(key) {
    return this.kept.has(key);
  }

  /** A value, which counts as used; undefined if it is not known. */
  get(key) {
    const found = this.kept.get(key);
    if (found) {
      this.kept.delete(key);
      this.kept.set(key, found);
    }
    return found?.value;
  }

  set(key, value, bytes) {
    this.#forget(key);
    this.kept.set(key, { value, bytes });
    this.bytes += bytes;
    for (const oldest of this.kept.keys()) {
      if (this.bytes <= this.most || oldest === key) {
        break;
      }
      this.#forget(oldest);
    }
  }

  #forget(key) {
    this.bytes -= this.kept.get(key)?.bytes ?? 0;
    this.kept.delete(key);
  }
}
