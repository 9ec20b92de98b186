//! The component's variables.

use exagg_sdk::variables::get;

/// Most exchanges that one request asks for, by the API's documentation.
const LIMIT_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    LiveCoinWatch,
    /// Simulated: weather where the stream is `weather`, exchanges otherwise.
    Random,
}

pub struct Settings {
    pub source: Source,
    pub stream: String,
    pub topic: String,
    pub kafka_brokers: String,
    pub api_url: String,
    pub api_key: String,
    pub currency: String,
    pub limit: usize,
    pub cities: Vec<String>,
    pub seed: u64,
}

impl Settings {
    /// Reads the component's variables.
    pub async fn load() -> Result<Self, String> {
        let source = match get("source").await?.as_str() {
            "livecoinwatch" => Source::LiveCoinWatch,
            "random" => Source::Random,
            other => return Err(format!("the variable source is {other:?}: use \"livecoinwatch\" or \"random\"")),
        };
        let limit = number("limit", &get("limit").await?)?;
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(format!("the variable limit is {limit}: 1 to {LIMIT_MAX} is wanted"));
        }
        Ok(Self {
            source,
            limit,
            stream: get("stream").await?,
            topic: get("topic").await?,
            kafka_brokers: get("kafka_brokers").await?,
            api_url: get("api_url").await?,
            api_key: get("api_key").await?,
            currency: get("currency").await?,
            cities: cities(&get("cities").await?),
            seed: number("seed", &get("seed").await?)?,
        })
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("the variable {name} is {text:?}: a whole number is wanted"))
}

fn cities(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|city| !city.is_empty()).map(str::to_owned).collect()
}
