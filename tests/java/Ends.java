import java.io.DataInputStream;
import java.net.HttpURLConnection;
import java.net.Proxy;
import java.net.Socket;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import org.apache.http.client.methods.CloseableHttpResponse;
import org.apache.http.client.methods.HttpGet;
import org.apache.http.impl.client.CloseableHttpClient;
import org.apache.http.impl.client.HttpClients;

/** {@code HOW HOST PORT COUNT}: so many requests one after the other, each on a connection that this side closes. */
public class Ends {
    public static void main(String[] words) throws Exception {
        String host = words[1];
        int port = Integer.parseInt(words[2]);
        for (int i = Integer.parseInt(words[3]); i > 0; i--) {
            switch (words[0]) {
                case "socket" -> socket(host, port);
                case "url" -> url(host, port);
                default -> client4(host, port);
            }
        }
        System.out.println("done");
    }

    private static void socket(String host, int port) throws Exception {
        try (Socket socket = new Socket(host, port)) {
            String request = "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n";
            socket.getOutputStream().write(request.getBytes(StandardCharsets.US_ASCII));
            byte[] answer = new byte[44];
            new DataInputStream(socket.getInputStream()).readFully(answer);
        }
    }

    private static void url(String host, int port) throws Exception {
        URL url = new URL("http", host, port, "/");
        HttpURLConnection connection = (HttpURLConnection) url.openConnection(Proxy.NO_PROXY);
        connection.getInputStream().readAllBytes();
        connection.disconnect();
    }

    private static void client4(String host, int port) throws Exception {
        HttpGet request = new HttpGet("http://" + host + ":" + port + "/");
        try (CloseableHttpClient client = HttpClients.createMinimal();
                CloseableHttpResponse response = client.execute(request)) {
            response.getEntity().getContent().readAllBytes();
        }
    }
}
