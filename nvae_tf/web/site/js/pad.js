/** A picture that can be drawn on, by pointer or by keyboard. */

import { centred, line } from "./ink.js";
import { canvasFor, paint } from "./pictures.js";

const UNDO_STEPS = 30;

export class Pad extends EventTarget {
  /**
   * @param {HTMLElement} place
   * @param {number[]} shape of the model's images; drawn on if gray.
   */
  constructor(place, shape) {
    super();
    this.shape = shape;
    this.size = shape[0];
    this.canDraw = shape[2] === 1;
    this.pixels = new Uint8Array(shape.reduce((a, b) => a * b, 1));
    this.radius = this.size / 28;
    this.erases = false;
    this.history = [];
    this.place = place;
    this.canvas = canvasFor(shape, "Your image");
    place.append(this.canvas);
    paint(this.canvas, this.pixels);
    if (this.canDraw) {
      place.classList.add("draws");
      this.canvas.tabIndex = 0;
      this.#listenToPointer();
      this.#listenToKeys();
    }
  }

  /** Shows other pixels, without an event. */
  show(pixels) {
    this.pixels = Uint8Array.from(pixels);
    paint(this.canvas, this.pixels);
  }

  clear() {
    this.#replace(new Uint8Array(this.pixels.length));
  }

  centre() {
    this.#replace(centred(this.pixels, this.size));
  }

  invert() {
    // Alpha, where there is one, stays.
    const channels = this.shape[2];
    const hasAlpha = channels % 2 === 0;
    this.#replace(
      this.pixels.map((value, i) =>
        hasAlpha && i % channels === channels - 1 ? value : 255 - value,
      ),
    );
  }

  undo() {
    if (this.history.length) {
      this.show(this.history.pop());
      this.#changed(true);
    }
  }

  #replace(pixels) {
    this.#remember();
    this.show(pixels);
    this.#changed(true);
  }

  #remember() {
    this.history.push(this.pixels.slice());
    this.history.splice(0, this.history.length - UNDO_STEPS);
  }

  #draw(from, to) {
    line(this.pixels, this.size, from, to, this.radius, this.erases);
    paint(this.canvas, this.pixels);
    this.#changed(false);
  }

  /** "drawn" tells of every change; `detail` whether a stroke has ended. */
  #changed(isDone) {
    this.dispatchEvent(new CustomEvent("drawn", { detail: isDone }));
  }

  #listenToPointer() {
    let last = null;
    this.canvas.onpointerdown = (event) => {
      if (event.button) {
        return;
      }
      this.canvas.setPointerCapture(event.pointerId);
      this.#remember();
      last = this.#at(event);
      this.#draw(last, last);
    };
    this.canvas.onpointermove = (event) => {
      if (!last) {
        return;
      }
      // Between two frames a finger makes many small moves.
      const moves = event.getCoalescedEvents?.() ?? [];
      for (const move of moves.length ? moves : [event]) {
        const next = this.#at(move);
        this.#draw(last, next);
        last = next;
      }
    };
    this.canvas.onpointerup = this.canvas.onpointercancel = () => {
      if (last) {
        last = null;
        this.#changed(true);
      }
    };
  }

  #listenToKeys() {
    const cursor = document.createElement("span");
    cursor.className = "cursor";
    cursor.hidden = true;
    this.place.append(cursor);
    const at = { x: this.size / 2, y: this.size / 2 };
    let isDown = false;
    const show = () => {
      cursor.style.left = `${(100 * at.x) / this.size}%`;
      cursor.style.top = `${(100 * at.y) / this.size}%`;
      cursor.style.width = cursor.style.height = `${
        (200 * this.radius) / this.size
      }%`;
      cursor.classList.toggle("down", isDown);
    };
    this.canvas.onkeydown = (event) => {
      const move = {
        ArrowLeft: [-1, 0],
        ArrowRight: [1, 0],
        ArrowUp: [0, -1],
        ArrowDown: [0, 1],
      }[event.key];
      if (!move && event.key !== " ") {
        return;
      }
      event.preventDefault();
      cursor.hidden = false;
      const before = { ...at };
      if (move) {
        at.x = Math.min(this.size - 0.5, Math.max(0.5, at.x + move[0]));
        at.y = Math.min(this.size - 0.5, Math.max(0.5, at.y + move[1]));
      } else {
        isDown = !isDown;
        if (isDown) {
          this.#remember();
        } else {
          this.#changed(true);
        }
      }
      if (isDown) {
        this.#draw(before, at);
      }
      show();
    };
    this.canvas.onblur = () => {
      cursor.hidden = true;
      if (isDown) {
        isDown = false;
        this.#changed(true);
      }
    };
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.size,
      y: ((event.clientY - box.top) / box.height) * this.size,
    };
  }
}
