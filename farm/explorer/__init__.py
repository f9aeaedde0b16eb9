"""The explorer: one web page that lays the images of an output out by any of their columns.

An `Exhibit` is what the page is told of an output at one moment. `gallery` writes it beside the
page as static files, which open from a disk, an object store or any web host; `serve` answers with
the same page and the same data, says when the output changes, and takes votes.

The page itself is in `page/`: plain HTML, CSS and JavaScript, no framework, nothing from elsewhere.
Whatever comes from an output reaches the document as text only, never as markup.
"""
