package org.example.ledger;

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/** Serves a ledger: GET is its sum, POST adds cents. */
public final class Main {
    private Main() {}

    public static void main(String[] args) throws IOException {
        try (InputStream banner = Main.class.getResourceAsStream("/banner.txt")) {
            System.out.print(new String(banner.readAllBytes(), StandardCharsets.UTF_8));
        }
        List<String> arguments = List.of(args);
        int port = arguments.contains("--port") ? Integer.parseInt(args[arguments.indexOf("--port") + 1]) : 0;
        Ledger ledger = new Ledger();
        HttpServer server = HttpServer.create(new InetSocketAddress(port), 0);
        server.createContext("/", exchange -> {
            if (exchange.getRequestMethod().equals("POST")) {
                String body = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
                ledger.add(new Ledger.Entry("posted", Long.parseLong(body)));
                Files.writeString(Path.of("/var/lib/ledger/sum"), ledger.sum() + "\n");
            }
            byte[] answer = (ledger.sum() + "\n").getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(200, answer.length);
            try (OutputStream out = exchange.getResponseBody()) {
                out.write(answer);
            }
        });
        server.start();
        System.out.println("listening on " + server.getAddress().getPort() + " as " + System.getProperty("user.name"));
        if (arguments.contains("--once")) {
            server.stop(0);
        }
    }
}
