import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.Proxy;
import java.net.Socket;
import java.net.URL;

/** The Java clients of the example: {@code wait HOST PORT} and {@code send HOST PORT BYTES BYTES_PER_SECOND}. */
public class Client {
    public static void main(String[] args) throws Exception {
        try {
            if (args[0].equals("wait")) {
                waitForAnswer(args[1], Integer.parseInt(args[2]));
            } else {
                send(args[1], Integer.parseInt(args[2]), Long.parseLong(args[3]), Long.parseLong(args[4]));
            }
        } catch (IOException e) {
            System.err.println(e.getClass().getSimpleName() + ": " + e.getMessage());
            System.exit(1);
        }
    }

    /**
     * A POST of one byte rather than a GET: HttpURLConnection would repeat a GET silently on a new connection, and
     * the time shown would be that of both. A body of fixed length is never repeated.
     */
    private static void waitForAnswer(String host, int port) throws IOException {
        URL url = new URL("http", host, port, "/");
        HttpURLConnection connection = (HttpURLConnection) url.openConnection(Proxy.NO_PROXY);
        connection.setDoOutput(true);
        connection.setFixedLengthStreamingMode(1);
        connection.getOutputStream().write('?');
        connection.getResponseCode();
    }

    /** A plain socket that writes at a steady rate, so that there is data under way at every moment. */
    private static void send(String host, int port, long bytes, long bytesPerSecond) throws Exception {
        try (Socket socket = new Socket(host, port)) {
            OutputStream out = socket.getOutputStream();
            out.write(("PUT / HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: " + bytes + "\r\n\r\n").getBytes("US-ASCII"));
            byte[] piece = new byte[(int) (bytesPerSecond / 100)];
            for (long sent = 0; sent < bytes; sent += piece.length) {
                out.write(piece, 0, (int) Math.min(piece.length, bytes - sent));
                Thread.sleep(10);
            }
            InputStream in = socket.getInputStream();
            in.read();
        }
    }
}
