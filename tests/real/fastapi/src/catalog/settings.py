from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="CATALOG_")

    database: str = "sqlite://"
    host: str = "0.0.0.0"
    port: int = 8000
