from django.test import TestCase

from .models import Note


class NoteTest(TestCase):
    def test_the_page_lists_the_notes(self):
        Note.objects.create(text="a <note>")
        self.assertContains(self.client.get("/"), "<li>a &lt;note&gt;</li>")
