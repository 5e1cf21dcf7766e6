"use strict";

/** Viridis, which grows evenly brighter and is told apart with any colour vision, and maps painted in it. */
const Colours = (() => {
  const STOPS = ["440154", "482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70", "7ad151", "bddf26", "fde725"]
    .map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));

  /** [red, green, blue] of a value in 0 … 1. */
  function viridis(value) {
    const place = Math.min(Math.max(value, 0), 1) * (STOPS.length - 1);
    const low = Math.min(Math.floor(place), STOPS.length - 2);
    return STOPS[low].map((from, channel) => from + (STOPS[low + 1][channel] - from) * (place - low));
  }

  /** Paint values, row by row, into a canvas with a pixel for each; `opacity` gives a value's, 0 … 1. */
  function paint(canvas, values, width, height, low, high, opacity = () => 1) {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const span = high - low || 1;
    for (let n = 0; n < values.length; n++) {
      const share = (values[n] - low) / span;
      image.data.set([...viridis(share), 255 * opacity(share)], 4 * n);
    }
    context.putImageData(image, 0, 0);
  }

  return { viridis, paint };
})();
