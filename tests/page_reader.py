"""A page as a browser would read it, and a text from outside that tries to break it."""

from html.parser import HTMLParser

HOSTILE = '<script>alert("x")</script>|`$\\alpha_{$ [a](javascript:b)\n# é\u202e'


class PageReader(HTMLParser):
    """Tags with their attributes, the text, and whether every element is closed."""

    VOID = {"meta", "img", "br", "link"}

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
