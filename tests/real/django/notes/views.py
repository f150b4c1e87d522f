import os

from django.http import JsonResponse
from django.shortcuts import render

from .models import Note


def index(request):
    return render(request, "notes/index.html", {"notes": Note.objects.order_by("made")})


def health(_request):
    return JsonResponse({"notes": Note.objects.count(), "uid": os.getuid()})
