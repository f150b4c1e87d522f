from catalog.main import app
from fastapi.testclient import TestClient

client = TestClient(app)


def test_an_item_is_found_again():
    assert client.post("/items", json={"name": "cog"}).status_code == 201
    assert client.get("/items/cog").json() == {"id": 1, "name": "cog"}


def test_a_name_is_not_empty():
    assert client.post("/items", json={"name": ""}).status_code == 422
