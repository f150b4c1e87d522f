from django.db import models


class Note(models.Model):
    text = models.TextField()
    made = models.DateTimeField(auto_now_add=True)
