# The same for a machine without Python: a web application that reads a request and writes a page, for inetd.
FROM base
WORKDIR /app
ADD . /app
RUN mkdir -p data && sh app.sh --check > built
EXPOSE 8000
ENV NAME=world
ENTRYPOINT ["sh", "app.sh"]
CMD ["--serve"]
