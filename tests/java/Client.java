import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/**
 * Java's ways to the network, all at once: {@code MODE HOST PORT} as often as wanted. Each says one line,
 * {@code PORT<TAB>what came of it}, when it has ended.
 */
public class Client {
    public static void main(String[] args) throws Exception {
        List<Thread> threads = new ArrayList<>();
        for (int i = 0; i + 2 < args.length; i += 3) {
            String mode = args[i];
            String host = args[i + 1];
            int port = Integer.parseInt(args[i + 2]);
            threads.add(new Thread(() -> System.out.println(port + "\t" + run(mode, host, port))));
        }
        // What is to connect after the cut is told so by the end of standard input.
        boolean later = List.of(args).contains("connect");
        for (int i = 0; i < threads.size(); i++) {
            if (!args[3 * i].equals("connect")) {
                threads.get(i).start();
            }
        }
        if (later) {
            System.in.transferTo(OutputStream.nullOutputStream());
            for (int i = 0; i < threads.size(); i++) {
                if (args[3 * i].equals("connect")) {
                    threads.get(i).start();
                }
            }
        }
        for (Thread thread : threads) {
            thread.join();
        }
    }

    private static CharSequence run(String mode, String host, int port) {
        try {
            switch (mode) {
                case "url":
                    return url(host, port, false);
                case "post":
                    return url(host, port, true);
                case "socket":
                case "connect":
                    return socket(host, port);
                case "channel":
                    return channel(host, port);
                case "launch":
                    return launch(host, port);
                case "http":
                    return http(host, port);
                case "upload":
                    return upload(host, port);
                case "many":
                    return many(host, port);
                case "probe":
                    return probe(host, port);
                case "torn":
                    return torn(host, port);
                default:
                    return "no such mode";
            }
        } catch (Exception e) {
            return e.getClass().getSimpleName() + ": " + e.getMessage();
        }
    }

    private static byte[] request(String host) {
        return ("GET /java HTTP/1.1\r\nHost: " + host + "\r\n\r\n").getBytes(StandardCharsets.US_ASCII);
    }

    /**
     * With a body it is not repeated: HttpURLConnection repeats a GET silently on a new connection, and the time
     * would be that of both.
     */
    private static String url(String host, int port, boolean body) throws Exception {
        URL url = new URL("http", host.contains(":") ? "[" + host + "]" : host, port, "/java");
        HttpURLConnection connection = (HttpURLConnection) url.openConnection(Proxy.NO_PROXY);
        if (body) {
            connection.setDoOutput(true);
            connection.setFixedLengthStreamingMode(1);
            connection.getOutputStream().write('?');
        }
        try (InputStream in = connection.getInputStream()) {
            return last(in.readAllBytes());
        }
    }

    private static String socket(String host, int port) throws Exception {
        try (Socket socket = new Socket(host, port)) {
            socket.getOutputStream().write(request(host));
            return last(socket.getInputStream().readAllBytes());
        }
    }

    private static String channel(String host, int port) throws Exception {
        try (SocketChannel channel = SocketChannel.open(); Selector selector = Selector.open()) {
            channel.configureBlocking(false);
            SelectionKey key = channel.register(selector, SelectionKey.OP_CONNECT);
            channel.connect(new InetSocketAddress(host, port));
            while (!channel.finishConnect()) {
                selector.select();
            }
            ByteBuffer request = ByteBuffer.wrap(request(host));
            while (request.hasRemaining()) {
                channel.write(request);
            }
            key.interestOps(SelectionKey.OP_READ);
            ByteBuffer answer = ByteBuffer.allocate(4096);
            while (channel.read(answer) >= 0) {
                selector.select();
            }
            return last(answer.array());
        }
    }

    /**
     * Other programs are started while it connects, and between what it accepts: by VFORK, if the launch mechanism is
     * that. The connection is from here to here; it and what is accepted later stay open until the peer has answered.
     */
    private static String launch(String host, int port) throws Exception {
        try (ServerSocket listener = new ServerSocket(port + 1, 8, InetAddress.getByName(host));
                SocketChannel channel = SocketChannel.open()) {
            InetSocketAddress here = new InetSocketAddress(host, port + 1);
            try (Socket first = new Socket(host, port + 1); Socket accepted = listener.accept()) {
                start();
            }
            channel.configureBlocking(false);
            channel.connect(here);
            start();
            while (!channel.finishConnect()) {
                Thread.sleep(1);
            }
            try (Socket accepted = listener.accept()) {
                return socket(host, port);
            }
        }
    }

    private static void start() throws Exception {
        new ProcessBuilder("true").start().waitFor();
    }

    private static String http(String host, int port) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create("http://" + host + ":" + port + "/java")).build();
        return HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body().trim();
    }

    /** Writes at a steady rate: there is data under way at every moment. */
    private static String upload(String host, int port) throws Exception {
        try (Socket socket = new Socket(host, port)) {
            OutputStream out = socket.getOutputStream();
            String head = "PUT / HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 100000000\r\n\r\n";
            out.write(head.getBytes(StandardCharsets.US_ASCII));
            byte[] piece = new byte[10_000];
            for (int sent = 0; sent < 100_000_000; sent += piece.length) {
                out.write(piece);
                Thread.sleep(10);
            }
            return "sent everything";
        }
    }

    /** 64 threads, each with 20 connections, all open at the same time. */
    private static CharSequence many(String host, int port) throws Exception {
        List<Thread> threads = new ArrayList<>();
        List<Socket> sockets = new ArrayList<>();
        for (int i = 0; i < 64; i++) {
            threads.add(new Thread(() -> {
                for (int k = 0; k < 20; k++) {
                    try {
                        Socket socket = new Socket(host, port);
                        synchronized (sockets) {
                            sockets.add(socket);
                        }
                    } catch (Exception e) {
                        System.out.println(e);
                    }
                }
            }));
        }
        for (Thread thread : threads) {
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        sockets.get(0).getOutputStream().write(request(host));
        sockets.get(0).getInputStream().readAllBytes();
        return sockets.size() + " connections";
    }

    /** 300 requests, each on a connection of its own. */
    private static String probe(String host, int port) throws Exception {
        for (int i = 0; i < 300; i++) {
            URL url = new URL("http", host, port, "/");
            HttpURLConnection connection = (HttpURLConnection) url.openConnection(Proxy.NO_PROXY);
            connection.getInputStream().readAllBytes();
            connection.disconnect();
        }
        return "done";
    }

    /** 100 connections, each closed while another thread waits for something to read. */
    private static String torn(String host, int port) throws Exception {
        for (int i = 0; i < 100; i++) {
            Socket socket = new Socket(host, port);
            socket.getOutputStream().write(request(host));
            Thread reader = new Thread(() -> {
                try {
                    socket.getInputStream().readAllBytes();
                } catch (Exception e) {
                    // "Socket closed"
                }
            });
            reader.start();
            while (socket.getInputStream().available() > 0) {
                Thread.sleep(1);
            }
            Thread.sleep(5);
            socket.close();
            reader.join();
        }
        return "done";
    }

    private static String last(byte[] answer) {
        String[] lines = new String(answer, StandardCharsets.US_ASCII).replace('\0', ' ').trim().split("\r?\n");
        return lines[lines.length - 1];
    }
}
