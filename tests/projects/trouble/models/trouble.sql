{#- The test says what happens: the SQL that runs before it, as a JSON list, and what it selects. -#}
{{ config(materialized='table', pre_hook=fromjson(env_var('RELAY_TEST_BEFORE', '[]'))) }}
select {{ env_var('RELAY_TEST_BODY', '1 as id') }}
