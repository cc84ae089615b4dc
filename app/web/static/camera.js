// A photograph from the camera of this machine.

import { button, h, modal, problemBox } from "./dom.js";

/** Whether the browser lets this page use a camera: it does on localhost and over HTTPS. */
export const hasCamera = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** Shows what the camera sees; a JPEG once a photograph was taken, undefined if not. */
export async function photographed() {
  let stream = null;
  try {
    return await modal("Camera", (close) => {
      const video = h("video", { autoplay: true, muted: true, playsinline: true, "aria-label": "What the camera sees" });
      const place = h("div");
      const take = button("Take the photograph", async () => close(await frameOf(video)), { class: "primary" });
      take.disabled = true;
      navigator.mediaDevices
        .getUserMedia({ video: { facingMode: "user", width: { ideal: 1280 }, height: { ideal: 960 } } })
        .then(async (opened) => {
          stream = opened;
          if (!video.isConnected) return stop(opened);
          video.srcObject = opened;
          await video.play();
          take.disabled = false;
          take.focus();
        })
        .catch((error) => place.append(problemBox({ detail: refusal(error) })));
      return [h("h2", null, "Camera"), video, place, h("div", { class: "row end" }, button("Cancel", () => close()), take)];
    });
  } finally {
    if (stream) stop(stream);
  }
}

const stop = (stream) => stream.getTracks().forEach((track) => track.stop());

const REFUSALS = {
  NotAllowedError: "The browser does not let this page use the camera; allow it in the browser's settings for this page.",
  NotFoundError: "No camera was found. Connect one, or choose a file.",
};
const refusal = (error) => REFUSALS[error.name] ?? `The camera cannot be used: ${error.message}`;

async function frameOf(video) {
  const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return jpegOf(canvas);
}

/** The picture of a canvas as a JPEG. */
export const jpegOf = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
