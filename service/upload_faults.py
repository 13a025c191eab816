"""What can be wrong with how an image was sent: its size, or another thing in its place."""

from __future__ import annotations

from service.runtime.faults import ImageFault


class ImageTooLarge(ImageFault):
    title = "The image has too many bytes"
    detail = "The image has {bytes} bytes; at most {max_bytes} are accepted."
    remedy = "Send a smaller or more strongly compressed picture: the network sees a few hundred pixels of it anyway."


class TooMuchMemory(ImageFault):
    title = "The image takes too much memory"
    detail = "Decoding the image would take {bytes} bytes; at most {max_bytes} are used for that."
    remedy = "Scale the picture down before sending it, or raise the server's memory_budget."


class FormAsImage(ImageFault):
    title = "The body is a form"
    detail = "The body begins like a form (multipart/form-data), but the request's content type is {content_type}."
    remedy = (
        "Let the HTTP client write the content type, which also names the boundary: `curl -F file=@photo.jpg`, "
        "without -H."
    )


class FileNameAsImage(ImageFault):
    title = "A file name was sent instead of the file"
    detail = "The upload is the name of an image, not the image: {name}."
    remedy = "Send the file's bytes: with curl, `-F file=@photo.jpg` or `--data-binary @photo.jpg`, with the @."


class TextEncodedImage(ImageFault):
    title = "The image has been sent as text"
    detail = (
        "The body is not a complete image. It has no line breaks and the content type "
        "application/x-www-form-urlencoded: `curl -d`, which removes them, or a form encoding has probably changed it."
    )
    remedy = "Use `curl --data-binary @FILE`, or `curl -F file=@FILE`."
