from django.db import migrations, models


def welcome(apps, _schema_editor):
    apps.get_model("notes", "Note").objects.create(text="welcome")


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            name="Note",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("text", models.TextField()),
                ("made", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.RunPython(welcome, migrations.RunPython.noop),
    ]
