import os
from importlib.metadata import version

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

from .settings import Settings

settings = Settings()
engine = create_engine(settings.database, connect_args={"check_same_thread": False}, poolclass=StaticPool)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)


class NewItem(BaseModel):
    name: str = Field(min_length=1, max_length=40)


Base.metadata.create_all(engine)
app = FastAPI(title="catalog", version=version("catalog"))


def session():
    with Session(engine) as session:
        yield session


@app.get("/health")
def health():
    return {"version": app.version, "uid": os.getuid()}


@app.post("/items", status_code=201)
def add(new: NewItem, db: Session = Depends(session)):
    item = Item(name=new.name)
    db.add(item)
    db.commit()
    return {"id": item.id, "name": item.name}


@app.get("/items/{name}")
def show(name: str, db: Session = Depends(session)):
    item = db.scalar(select(Item).where(Item.name == name))
    if item is None:
        raise HTTPException(404)
    return {"id": item.id, "name": item.name}


def run():
    uvicorn.run(app, host=settings.host, port=settings.port)
